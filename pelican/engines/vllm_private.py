"""What the engines use of vLLM 0.31.0 beyond its documented interface: its steps, weights in place.

tests/engines/test_borrowed_names.py checks names and parameters, so a new version that differs fails there,
and this module is the one to change. vLLM mixes `Reloading` into its workers, so nothing heavy is
imported at the top.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pelican.errors import InfrastructureError, UserInputError

WORKER = "pelican.engines.vllm_private.Reloading"  # for LLM(worker_extension_cls=…)


def enqueue(llm: Any, prompts: Sequence[Any], parameters: Sequence[Any], what: str) -> list[str]:
    """Ask for completions without waiting for them.

    Args:
        llm: vLLM's `LLM`.
        prompts: In vLLM's form.
        parameters: SamplingParams of each.
        what: The request, for the message: "sample 's1'".

    Returns:
        The names that the outputs of `step` will have.

    Raises:
        UserInputError: vLLM refuses a request, because its prompt is too long, for example.
    """
    from vllm.exceptions import VLLMClientError

    try:
        names = llm.enqueue(prompts, parameters, use_tqdm=False)
    except VLLMClientError as error:
        raise UserInputError(f"vLLM refuses {what}: {error}") from error
    # Inside, vLLM adds a random end to the number that the output has.
    return [name.partition("-")[0] for name in names]


def step(llm: Any) -> list[Any]:
    """Decode a step of everything that was asked for; the outputs that it finished.

    Raises:
        InfrastructureError: The engine's process ended.
    """
    from vllm.v1.engine.exceptions import EngineDeadError

    try:
        return [output for output in llm.llm_engine.step() if output.finished]
    except EngineDeadError as error:
        raise InfrastructureError("vLLM's engine ended; its last words are above") from error


def abort(llm: Any, names: Iterable[str]) -> None:
    """Give up requests, by the names that `enqueue` gave."""
    llm.llm_engine.abort_request(list(names))


def shut_down(llm: Any, patience_s: float) -> None:
    """End the engine's processes; killed if they take longer than this."""
    llm.llm_engine.engine_core.shutdown(timeout=patience_s)


def reload_weights(llm: Any, checkpoint: Path) -> None:
    """Put weights of the same shapes in place, and forget what was computed with the old ones.

    Raises:
        InfrastructureError: Requests were running, so old keys and values are still there.
    """
    llm.collective_rpc("load_pelican_weights", args=(str(checkpoint),))
    llm.llm_engine.reset_encoder_cache()
    if not llm.reset_prefix_cache():
        raise InfrastructureError("vLLM kept keys of the old weights: requests were running")


class Reloading:
    """Methods of vLLM's workers that `collective_rpc` calls by name."""

    def load_pelican_weights(self, checkpoint: str) -> None:
        """Put weights of the same shapes in place, also into the packed copies that CPUs have.

        vLLM 0.31.0 on a CPU: each layer packs its weights for the processor. A head that is tied to
        the embeddings has none of its own to load, so its packed copy would stay the old one.
        """
        from vllm.platforms import current_platform

        worker: Any = self
        worker.model_runner.reload_weights(weights_path=checkpoint)
        if not current_platform.is_cpu():
            return
        from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm

        for layer in worker.model_runner.get_model().modules():
            # Layers whose weights were given up after packing were loaded and packed again.
            if hasattr(layer, "cpu_linear") and layer.weight.ndim == 2 and layer.weight.numel():
                dispatch_cpu_unquantized_gemm(layer, remove_weight=False)
