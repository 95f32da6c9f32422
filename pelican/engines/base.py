"""The interface of engines: samples in, completions out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pelican.base.model import digest_of
from pelican.config.recipe import Sampling
from pelican.records import Rollout, Sample


class Engine(ABC):
    """Makes completions of samples, from one checkpoint."""

    # Whether `generate` reads the next sample when it has room, and not all of them first.
    continuous = False

    @abstractmethod
    def generate(
        self, samples: Iterable[Sample], sampling: Sampling, n: int, seed: int
    ) -> Iterator[list[Rollout]]:
        """Sample rollouts.

        Args:
            samples: What is asked.
            sampling: Temperature, top-p and length.
            n: Rollouts per sample.
            seed: Of the stage. Random numbers of a rollout depend on it, on the sample's id and on
                the rollout's index alone.

        Yields:
            The `n` rollouts of one sample after the other, in their order, as they are ready.
        """

    def embed(self, samples: Sequence[Sample]) -> npt.NDArray[np.float32]:
        """Mean vision features of each sample, shape [len(samples), width].

        Raises:
            NotImplementedError: The engine has no features.
        """
        raise NotImplementedError(f"{type(self).__name__} gives no embeddings")

    def close(self) -> None:
        """End what the engine started, such as processes; by default nothing."""
        return None


def rollout_seed(seed: int, sample_id: str, index: int) -> int:
    """The seed of one rollout, 63 bits."""
    return int(digest_of([seed, sample_id, index]), 16) >> 1


def conversation(
    sample: Sample, system_prompt: str | None, image_part: Callable[[bytes], dict[str, Any]]
) -> list[dict[str, Any]]:
    """A sample as chat messages, the same for every engine.

    Images come first in the user's first turn. Frames of a clip are images, each after its time in
    seconds.

    Args:
        sample: What is asked.
        system_prompt: In front of its turns, None for none.
        image_part: Writes an image as a part of a message.
    """
    media: list[dict[str, Any]] = []
    for time, image in zip(sample.times_s, sample.images, strict=True):
        if sample.media_kind == "clip":
            media.append({"type": "text", "text": f"{time:g} s"})
        media.append(image_part(image))
    chat: list[dict[str, Any]] = []
    if system_prompt:
        chat.append({"role": "system", "content": system_prompt})
    first_user = next(i for i, turn in enumerate(sample.turns) if turn.role == "user")
    for i, turn in enumerate(sample.turns):
        asked = [*media, {"type": "text", "text": turn.text}]
        chat.append({"role": turn.role, "content": asked if i == first_user else turn.text})
    return chat
