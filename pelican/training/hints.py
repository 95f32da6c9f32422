"""Hints for questions that the policy never solves: a part of the answer, in words.

After SAGE, "Self-Hinting Language Models Enhance Reinforcement Learning" (arXiv 2602.03143): a hint made
from the reference goes into the prompt of questions without a right completion. Rewards stay as they are,
and the policy is trained on the prompt with the hint and evaluated on the one without. There the policy
writes its hints from a reference solution; here a rule makes them from the reference answer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from pelican.engines.base import rollout_seed
from pelican.records import (
    BoxAnswer,
    ChoiceAnswer,
    CountAnswer,
    DistanceAnswer,
    IntervalAnswer,
    OrderAnswer,
    PointsAnswer,
    Sample,
    StepsAnswer,
    TextAnswer,
    sides_of,
)
from pelican.rewards.masks import decode_mask


def make_hint(sample: Sample) -> str | None:
    """A part of the sample's answer; None if any part would be all of it, or a judge grades it."""
    make = _HINTS.get(type(sample.answer))
    found: str | None = make(sample, sample.answer) if make else None
    return found


def add_hint(sample: Sample) -> Sample | None:
    """The sample with a hint after its question; None if it can have none."""
    hint = make_hint(sample)
    if hint is None:
        return None
    *before, last = sample.turns
    asked = last.model_copy(update={"text": f"{last.text}\nHint: {hint}"})
    return sample.model_copy(update={"turns": (*before, asked)})


def _place(x: float, y: float) -> str:
    """The quarter of the image with the point (x, y), in shares of its width and height."""
    return f"it is in the {'upper' if y < 0.5 else 'lower'} {'left' if x < 0.5 else 'right'}."


def _points(sample: Sample, answer: PointsAnswer) -> str | None:
    pixels = decode_mask(answer.mask)
    rows, columns = np.nonzero(pixels)
    if not len(rows):
        return None
    height, width = pixels.shape
    return _place(float(columns.mean() + 0.5) / width, float(rows.mean() + 0.5) / height)


def _box(sample: Sample, answer: BoxAnswer) -> str:
    x0, y0, x1, y1 = answer.box
    width, height = sides_of(answer.scale)
    return _place((x0 + x1) / 2 / width, (y0 + y1) / 2 / height)


def _count(sample: Sample, answer: CountAnswer) -> str:
    """The value and a neighbour; which one says nothing about the value."""
    above = rollout_seed(0, sample.id, 0) % 2 == 0 or answer.value == 0
    low = answer.value if above else answer.value - 1
    return f"it is {low} or {low + 1}."


def _choice(sample: Sample, answer: ChoiceAnswer) -> str | None:
    """The right letter and a wrong one."""
    wrong = [chr(65 + i) for i in range(len(answer.options)) if chr(65 + i) != answer.answer]
    if len(wrong) < 2:
        return None
    other = wrong[rollout_seed(0, sample.id, 0) % len(wrong)]
    first, second = sorted((answer.answer, other))
    return f"it is {first} or {second}."


def _distance(sample: Sample, answer: DistanceAnswer) -> str:
    low, high = (float(f"{answer.value * share:.2g}") for share in (0.6, 1.6))
    return f"it is between {low:g} and {high:g} {answer.unit}."


def _interval(sample: Sample, answer: IntervalAnswer) -> str:
    middle = (sample.times_s[0] + sample.times_s[-1]) / 2
    return f"it begins in the {'first' if answer.start < middle else 'second'} half."


def _order(sample: Sample, answer: OrderAnswer) -> str | None:
    return f"{answer.items[0]} comes first." if len(answer.items) > 2 else None


def _steps(sample: Sample, answer: StepsAnswer) -> str | None:
    return f"the first step is: {answer.steps[0]}" if len(answer.steps) > 1 else None


def _text(sample: Sample, answer: TextAnswer) -> str | None:
    return f"it begins with {answer.value[0]!r}." if len(answer.value) > 2 else None


_HINTS: dict[type, Callable[[Sample, Any], str | None]] = {
    PointsAnswer: _points,
    BoxAnswer: _box,
    CountAnswer: _count,
    ChoiceAnswer: _choice,
    DistanceAnswer: _distance,
    IntervalAnswer: _interval,
    OrderAnswer: _order,
    StepsAnswer: _steps,
    TextAnswer: _text,
}
