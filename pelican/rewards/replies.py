"""A reference as the reply that says it: what a question's own answer must earn 1 for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from pelican.records import Answer, PointsAnswer, sides_of
from pelican.rewards.masks import decode_mask


def _point(answer: PointsAnswer) -> str:
    """The middle of the mask's first pixel."""
    height, width = answer.mask.size
    right, bottom = sides_of(answer.scale)
    row, column = (int(at[0]) for at in np.nonzero(decode_mask(answer.mask)))
    return f"({(column + 0.5) * right / width:.6f}, {(row + 0.5) * bottom / height:.6f})"


def _numbered(items: tuple[str, ...]) -> str:
    return "\n".join(f"{number}. {item}" for number, item in enumerate(items, 1))


_REPLIES: dict[str, Callable[[Any], str]] = {
    "points": _point,
    "box": lambda answer: "[" + ", ".join(f"{v:.6f}" for v in answer.box) + "]",
    "count": lambda answer: str(answer.value),
    "distance": lambda answer: f"{answer.value:.9f}",
    "choice": lambda answer: answer.answer,
    "yes_no": lambda answer: "yes" if answer.value else "no",
    "order": lambda answer: _numbered(answer.items),
    "interval": lambda answer: f"{answer.start:.6f} to {answer.end:.6f} s",
    "steps": lambda answer: _numbered(answer.steps),
    "text": lambda answer: answer.value,
    "open": lambda answer: answer.reference,
}


def as_reply(answer: Answer) -> str:
    """The reference in plain words, as a policy could write it."""
    return _REPLIES[answer.kind](answer)
