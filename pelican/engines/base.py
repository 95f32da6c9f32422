"""What an engine is: conversations in, completions out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pelican.base.model import digest_of
from pelican.config.recipe import Sampling
from pelican.records import Rollout, Sample

# The one interface of all engines. Imports no torch.


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


# A sample as chat messages: the one order of media and text that every engine shows a model.


def conversation(
    sample: Sample, system_prompt: str | None, image_part: Callable[[bytes], dict[str, Any]]
) -> list[dict[str, Any]]:
    """The sample's turns, its images in the user's first as `image_part` writes them.

    Frames of a clip are images, each after its time in seconds.
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
