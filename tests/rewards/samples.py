"""What the tests of rewards share."""

from __future__ import annotations

import numpy as np

from pelican.config.recipe import RewardConfig
from pelican.records import Answer, Family, Mask, Sample, Score
from pelican.rewards import Judge, score
from pelican.rewards.masks import encode_mask
from tests.data.factory import sample

CONFIG = RewardConfig()
_SAMPLES: dict[tuple[Answer, Family], Sample] = {}


def asking(answer: Answer, family: Family = Family.GENERAL) -> Sample:
    """A sample with this answer."""
    key = (answer, family)
    if key not in _SAMPLES:
        _SAMPLES[key] = sample(1, answer=answer, family=family)
    return _SAMPLES[key]


def wrap(text: str, think: str = "I look.") -> str:
    return f"<think>{think}</think>\n<answer>{text}</answer>"


def graded(
    answer: Answer, text: str, family: Family = Family.GENERAL, judge: Judge | None = None
) -> Score:
    """The score of a well-formed completion that answers `text`."""
    return score(asking(answer, family), wrap(text), CONFIG, judge=judge)


def rectangle(
    left: int, top: int, right: int, bottom: int, size: tuple[int, int] = (50, 100)
) -> Mask:
    """A mask of `size` (height, width) pixels, 1 in columns [left, right) and rows [top, bottom)."""
    pixels = np.zeros(size, np.uint8)
    pixels[top:bottom, left:right] = 1
    return encode_mask(pixels)
