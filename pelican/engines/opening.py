"""Opening of an engine; what it needs is imported only then."""

from __future__ import annotations

from pathlib import Path

from pelican.config import env
from pelican.config.recipe import ModelConfig, RolloutConfig
from pelican.engines.base import Engine
from pelican.storage.checkpoints import check_checkpoint


def open_engine(
    config: RolloutConfig, model: ModelConfig, checkpoint: Path, threads: int = 1
) -> Engine:
    """Load the engine that a recipe names.

    Args:
        config: The recipe's section `rollout`.
        model: The recipe's section `model`.
        checkpoint: The policy; for `replay` a folder of recorded rollouts.
        threads: Of the process, on a CPU.

    Raises:
        UserInputError: There is no such checkpoint, or the engine is not installed.
    """
    if config.engine == "replay":
        from pelican.engines.replay import ReplayEngine

        return ReplayEngine(checkpoint)
    check_checkpoint("models", str(checkpoint))
    if config.engine == "vllm":
        from pelican.engines.vllm import VllmEngine

        return VllmEngine(config.vllm, model, checkpoint, threads)
    from pelican.engines.transformers import TransformersEngine

    batch_size = env.batch_size(config.batch_size)
    return TransformersEngine.load(model, checkpoint, batch_size, threads)
