"""A sample as chat messages: the one order of media and text that every engine shows a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pelican.records import Sample


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
