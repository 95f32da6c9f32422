"""The one interface of all engines. Imports no torch: an engine is loaded when it is opened."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pelican import settings
from pelican.errors import UserInputError
from pelican.recipe import ModelConfig, RolloutConfig, Sampling, digest_of
from pelican.records import Rollout, Sample


class Engine(ABC):
    """Makes completions of samples, from one checkpoint."""

    @abstractmethod
    def generate(
        self, samples: Sequence[Sample], sampling: Sampling, n: int, seed: int
    ) -> Iterator[list[Rollout]]:
        """`n` rollouts per sample, in the order of `samples`, as they are ready.

        The random numbers of a rollout depend on `seed`, its sample's id and its index only.
        """

    def embed(self, samples: Sequence[Sample]) -> npt.NDArray[np.float32]:
        """Mean vision features per sample, shape [len(samples), width]; not every engine can."""
        raise NotImplementedError(f"{type(self).__name__} gives no embeddings")

    def close(self) -> None:
        """End what the engine started; nothing, unless it has processes of its own."""
        return None


def rollout_seed(seed: int, sample_id: str, index: int) -> int:
    """A 63-bit seed of its own for every rollout."""
    return int(digest_of([seed, sample_id, index]), 16) >> 1


def check_checkpoint(checkpoint: Path) -> None:
    """Say what a folder lacks to be a Hugging Face checkpoint in safetensors."""
    if not checkpoint.is_dir():
        raise UserInputError(f"checkpoint {checkpoint} is not a folder; check the recipe's models")
    missing = [
        name
        for name in ("config.json", "tokenizer_config.json", "preprocessor_config.json")
        if not (checkpoint / name).exists()
        and not (
            name.startswith("preprocessor") and (checkpoint / "processor_config.json").exists()
        )
    ]
    if not any(checkpoint.glob("*.safetensors")):
        missing.append("*.safetensors (other formats are not read: they can carry code)")
    if missing:
        raise UserInputError(f"checkpoint {checkpoint} lacks {', '.join(missing)}; copy it again")


def open_engine(
    config: RolloutConfig, model: ModelConfig, checkpoint: Path, threads: int = 1
) -> Engine:
    """Load the engine that `config.engine` names, with `checkpoint`."""
    if config.engine == "replay":
        from pelican.engines.replay import ReplayEngine

        return ReplayEngine(checkpoint)
    check_checkpoint(checkpoint)
    if config.engine == "vllm":
        from pelican.engines.vllm import VllmEngine

        return VllmEngine(config.vllm, model, checkpoint, threads)
    from pelican.engines.transformers import TransformersEngine

    batch_size = settings.batch_size(config.batch_size)
    return TransformersEngine.load(model, checkpoint, batch_size, threads)
