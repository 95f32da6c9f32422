"""Opens the engine that a recipe names; only then what it needs is imported."""

from __future__ import annotations

from pathlib import Path

from pelican.config import env
from pelican.config.recipe import ModelConfig, RolloutConfig
from pelican.engines.base import Engine
from pelican.storage.checkpoints import check_checkpoint


def open_engine(
    config: RolloutConfig, model: ModelConfig, checkpoint: Path, threads: int = 1
) -> Engine:
    """Load the engine that `config.engine` names, with `checkpoint`."""
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
