"""The engine on vLLM: continuous batching in processes of its own, one prefix for a prompt's rollouts.

Imported only if the recipe wants it; `docs/scaling.md` says how it is installed.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pelican.base.process import guard_group
from pelican.config import env
from pelican.config.recipe import ModelConfig, Sampling, VllmConfig
from pelican.data.images import open_seen
from pelican.engines import vllm_private
from pelican.engines.base import Engine, rollout_seed
from pelican.engines.transformers import messages
from pelican.errors import UserInputError
from pelican.records import Rollout, Sample

_ENVIRONMENT = {
    # A forked engine would inherit threads and locks of this process.
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    # vLLM would bind every rank's threads to the same cores.
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
}
_CPU_CACHE_GIB = 1.0
_BANNED = -100.0  # the lowest bias that vLLM takes
_PATIENCE_S = 60.0  # in which the engine's processes may end by themselves


class VllmEngine(Engine):
    """One vLLM engine, which runs until it is closed."""

    continuous = True

    def __init__(
        self,
        config: VllmConfig,
        model: ModelConfig,
        checkpoint: Path,
        threads: int,
        **more: Any,
    ) -> None:
        """Start the engine.

        Args:
            config: The recipe's section `rollout.vllm`.
            model: The recipe's section `model`.
            checkpoint: What to load.
            threads: Of each process, on a CPU.
            more: Further arguments of vLLM's `LLM`.

        Raises:
            UserInputError: vllm can't be imported, or there are fewer GPUs than the recipe wants.
        """
        for name, value in {**_ENVIRONMENT, "OMP_NUM_THREADS": str(threads)}.items():
            env.set_default(name, value)
        try:
            from vllm import LLM
            from vllm.platforms import current_platform
        except ImportError as error:
            raise UserInputError(
                f"rollout.engine is 'vllm' but vllm cannot be imported ({error}); install the extra"
                " 'gpu' (or `make vllm-cpu` on a CPU), or set rollout.engine=transformers"
            ) from None
        from transformers import AutoProcessor

        self._processor = AutoProcessor.from_pretrained(checkpoint)
        self._tokenizer = self._processor.tokenizer
        self._system_prompt = model.system_prompt
        self._max_images = model.max_images
        # So many requests are under way that prompts are prepared while others are decoded.
        self._ahead = 2 * config.max_num_seqs
        options = vllm_options(config, model, on_cpu=bool(current_platform.is_cpu())) | more
        self._guard = guard_group()
        with env.changed(visible_devices(config.tensor_parallel_size, env.read_all())):
            self._llm: Any = LLM(model=str(checkpoint), **options)

    def generate(
        self, samples: Iterable[Sample], sampling: Sampling, n: int, seed: int
    ) -> Iterator[list[Rollout]]:
        todo = iter(samples)
        groups: deque[tuple[Sample, list[Rollout | None]]] = deque()
        waiting: dict[str, tuple[Sample, list[Rollout | None], int]] = {}
        try:
            while True:
                while len(waiting) < self._ahead and (sample := next(todo, None)) is not None:
                    group: list[Rollout | None] = [None] * n
                    groups.append((sample, group))
                    for index, name in enumerate(self._enqueue(sample, sampling, n, seed)):
                        waiting[name] = (sample, group, index)
                if not waiting:
                    return
                for output in vllm_private.step(self._llm):
                    sample, group, index = waiting.pop(output.request_id)
                    group[index] = self._rollout(
                        sample.id, index, rollout_seed(seed, sample.id, index), output
                    )
                while groups and None not in groups[0][1]:
                    yield [rollout for rollout in groups.popleft()[1] if rollout is not None]
        finally:
            if waiting:  # the reader of the rollouts gave up
                vllm_private.abort(self._llm, waiting)

    def _enqueue(self, sample: Sample, sampling: Sampling, n: int, seed: int) -> list[str]:
        """Ask for the rollouts of one sample; returns the names of their outputs."""
        self._check_images(sample)
        parameters = [
            self._parameters(sampling, rollout_seed(seed, sample.id, index)) for index in range(n)
        ]
        prompts = [self._prompt(sample)] * n
        return vllm_private.enqueue(self._llm, prompts, parameters, f"sample {sample.id!r}")

    def _check_images(self, sample: Sample) -> None:
        if len(sample.images) > self._max_images:
            raise UserInputError(
                f"sample {sample.id!r} has {len(sample.images)} images but model.max_images is"
                f" {self._max_images}; raise it"
            )

    def _prompt(self, sample: Sample) -> dict[str, Any]:
        """A prompt in vLLM's form: token ids with one token per image, which vLLM expands, and images."""
        text = self._processor.apply_chat_template(
            messages(sample, self._system_prompt), add_generation_prompt=True, tokenize=False
        )
        prompt = {"prompt_token_ids": self._tokenizer(text, add_special_tokens=False)["input_ids"]}
        if not sample.images:
            return prompt
        images = [open_seen(image) for image in sample.images]
        # Images get the digest of their bytes as names, else vLLM hashes the pixels for each rollout.
        names = [hashlib.blake2b(image, digest_size=16).hexdigest() for image in sample.images]
        return prompt | {
            "multi_modal_data": {"image": images},
            "multi_modal_uuids": {"image": names},
        }

    def _parameters(self, sampling: Sampling, seed: int) -> Any:
        from vllm import SamplingParams

        # Not every processor has both: InternVL's has no token of videos.
        names = ("image_token_id", "video_token_id")
        tokens = [getattr(self._processor, name, None) for name in names]
        return SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_tokens=sampling.max_tokens,
            seed=seed if sampling.temperature > 0 else None,
            # The tokenizer's end token alone, as in the transformers engine: generation_config.json
            # may name others.
            ignore_eos=True,
            stop_token_ids=[self._tokenizer.eos_token_id],
            # An image token must not be sampled: in training it would be taken for an image.
            logit_bias={token: _BANNED for token in tokens if token is not None},
            detokenize=False,
        )

    def _rollout(self, sample_id: str, index: int, seed: int, output: Any) -> Rollout:
        ids = list(output.outputs[0].token_ids)
        stopped = bool(ids) and ids[-1] == self._tokenizer.eos_token_id
        return Rollout(
            sample_id=sample_id,
            index=index,
            seed=seed,
            completion=self._tokenizer.decode(ids, skip_special_tokens=True),
            tokens=len(ids),
            finish="stop" if stopped else "length",
            prompt_tokens=len(output.prompt_token_ids or ()),
        )

    def close(self) -> None:
        llm, self._llm = self._llm, None
        if llm is not None:
            vllm_private.shut_down(llm, _PATIENCE_S)
        guard, self._guard = self._guard, None
        if guard is not None:
            guard.kill()
            guard.communicate()


def vllm_options(config: VllmConfig, model: ModelConfig, *, on_cpu: bool) -> dict[str, Any]:
    """The arguments of vLLM's `LLM`."""
    options: dict[str, Any] = {
        "dtype": model.dtype,
        "load_format": "safetensors",
        "tensor_parallel_size": config.tensor_parallel_size,
        "gpu_memory_utilization": config.gpu_memory_utilization,
        "max_num_seqs": config.max_num_seqs,
        "enable_prefix_caching": config.enable_prefix_caching,
        # Compiling takes minutes on a CPU, at every start.
        "enforce_eager": config.enforce_eager or on_cpu,
        # Clips are sent as images. Without a limit of 0 vLLM reserves memory for the longest video.
        "limit_mm_per_prompt": {"image": model.max_images, "video": 0},
        "disable_log_stats": True,
    }
    if on_cpu:
        # When a prompt is split, vLLM rewinds the request's random numbers, which it can't do on a CPU:
        # the engine would end at the first prompt that does not fit into a step.
        options["enable_chunked_prefill"] = False
    if config.max_model_len is not None:
        options["max_model_len"] = config.max_model_len
    # Without a size vLLM would take the same share of a CPU's memory as of a GPU's.
    cache = config.kv_cache_gib or (_CPU_CACHE_GIB if on_cpu else None)
    if cache is not None:
        options["kv_cache_memory_bytes"] = int(cache * 2**30)
    return options


def visible_devices(gpus: int, environment: Mapping[str, str]) -> dict[str, str]:
    """CUDA_VISIBLE_DEVICES for the engine of this rank; empty if the rank has the machine alone.

    Ranks of one machine get `gpus` each, because vLLM takes the first GPUs that it sees, so all ranks
    would share them.

    Raises:
        UserInputError: There are not enough GPUs.
    """
    if int(environment.get("LOCAL_WORLD_SIZE", "1")) == 1:
        return {}
    first = int(environment.get("LOCAL_RANK", "0")) * gpus
    given = environment.get("CUDA_VISIBLE_DEVICES")
    devices = given.split(",") if given else [str(i) for i in range(first + gpus)]
    mine = devices[first : first + gpus]
    if len(mine) < gpus:
        raise UserInputError(
            f"rank {environment.get('LOCAL_RANK')} has no {gpus} GPUs among CUDA_VISIBLE_DEVICES="
            f"{given}; lower rollout.workers or rollout.vllm.tensor_parallel_size"
        )
    return {"CUDA_VISIBLE_DEVICES": ",".join(mine)}
