"""The one interface of all engines. Imports no torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from pelican.digest import digest_of
from pelican.recipe import Sampling
from pelican.records import Rollout, Sample


class Engine(ABC):
    """Makes completions of samples, from one checkpoint."""

    # Whether `generate` takes samples one by one, as it has room, and not all of them first.
    continuous = False

    @abstractmethod
    def generate(
        self, samples: Iterable[Sample], sampling: Sampling, n: int, seed: int
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
