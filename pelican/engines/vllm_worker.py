"""What vLLM's workers do for a generation server; vLLM mixes it into its worker class."""

from __future__ import annotations

from typing import Any


class Reloading:
    """Called through `collective_rpc`."""

    def load_pelican_weights(self, checkpoint: str) -> None:
        """Weights of the same shapes in place.

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
