"""One usable row of a pool: what is checked of it before its images are read."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from pelican.data.quarantine import RowError
from pelican.data.rows import OPTIONAL
from pelican.data.run_lengths import MAX_MASK_PIXELS
from pelican.data.tables import sample_from_row
from pelican.errors import UserInputError
from pelican.records import (
    Answer,
    Dimension,
    Family,
    IntervalAnswer,
    Mask,
    PointsAnswer,
    Sample,
    Split,
)
from pelican.rewards.score import scorer_of

MIN_STEP_S = 1 / 240  # no camera of a robot is faster
RESERVED = re.compile(r"<\|[\w ]{1,40}\|>|<(?:image|video)_pad>|\[/?INST\]|<</?SYS>>")


def answer_types() -> tuple[type[BaseModel], ...]:
    """The kinds of `Answer`."""
    types: tuple[type[BaseModel], ...] = get_args(get_args(Answer)[0])
    return types


KINDS: tuple[str, ...] = tuple(t.model_fields["kind"].default for t in answer_types())


@dataclass(frozen=True, slots=True)
class Entry:
    """One usable row of a pool, all but its images."""

    id: str
    family: Family
    dimension: Dimension
    span_s: float
    scene: str
    split: Split
    source: str
    question: str
    answer_kind: str
    clip: bool
    shard: int
    row: int


def entry_of(values: dict[str, Any], shard: int, row: int) -> Entry:
    """Check one row, all but its images. Raises RowError."""
    for name in OPTIONAL:
        if values.get(name, "") is None:
            del values[name]
    for name in ("images", "times_s", "turns", "answer"):
        if values[name] is None:
            raise RowError("schema", f"{name} is null")
    finite(values["times_s"], "times_s")
    finite(values.get("chance"), "chance")
    try:
        sample = sample_from_row({**values, "images": [{"bytes": b"-"} for _ in values["images"]]})
    except ValidationError as error:
        raise RowError("schema" if error.title == "Sample" else "answer", _said(error)) from None
    finite(sample.answer, "answer")
    if sample.media_kind == "clip" and (len(sample.images) < 2 or sample.span_s < MIN_STEP_S):
        raise RowError("clip_step", f"a clip of {sample.span_s:g} s is shorter than a frame step")
    for turn in sample.turns:
        refuse(RESERVED, turn.text)
    answer_fits(sample)
    return Entry(
        id=sample.id,
        family=sample.family,
        dimension=sample.dimension,
        span_s=sample.span_s,
        scene=sample.scene,
        split=sample.split,
        source=sample.source,
        question=sample.question,
        answer_kind=sample.answer.kind,
        clip=sample.media_kind == "clip",
        shard=shard,
        row=row,
    )


def refuse(markup: re.Pattern[str], text: str) -> None:
    """Raise RowError if a turn's `text` holds such `markup`."""
    if found := markup.search(text):
        raise RowError("markup", f"a turn holds {found[0]!r}, which would break a prompt")


def answer_fits(sample: Sample) -> None:
    """What the records can't see alone: the answer against media and reward. Raises RowError."""
    answer = sample.answer
    try:
        scorer_of(sample)
    except UserInputError:
        raise RowError(
            "answer", f"family {sample.family} has no reward for answers of kind {answer.kind}"
        ) from None
    if isinstance(answer, IntervalAnswer):
        step = sample.span_s / max(1, len(sample.times_s) - 1)
        if answer.end > sample.times_s[-1] + step or answer.start < sample.times_s[0] - step:
            raise RowError(
                "answer",
                f"interval {answer.start:g} to {answer.end:g} s leaves its clip of"
                f" {sample.times_s[0]:g} to {sample.times_s[-1]:g} s",
            )
    if isinstance(answer, PointsAnswer):
        mask_fits(answer.mask)


def mask_fits(mask: Mask) -> None:
    """A mask has exactly its frame's pixels and at least one inside. Raises RowError."""
    height, width = mask.size
    if height < 1 or width < 1 or height * width > MAX_MASK_PIXELS:
        raise RowError("answer", f"a mask of {height} x {width} pixels can't be used")
    runs: list[int] = []
    value = shift = 0
    for char in mask.counts:
        bits = ord(char) - 48
        if not 0 <= bits < 64 or shift > 30:
            raise RowError("answer", "a mask's counts are not COCO run lengths")
        value |= (bits & 0x1F) << shift
        shift += 5
        if not bits & 0x20:
            value |= (-1 << shift) if bits & 0x10 else 0
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    if shift or any(run < 0 for run in runs) or sum(runs) != height * width:
        raise RowError(
            "answer", f"a mask's counts do not cover its frame of {height} x {width} pixels"
        )
    if not sum(runs[1::2]):
        raise RowError("answer", "a mask is empty")


def finite(value: object, name: str) -> None:
    """Raise RowError if a number in `value` is NaN or infinite."""
    if isinstance(value, float) and not math.isfinite(value):
        raise RowError("not_finite", f"{name} holds {value}")
    if isinstance(value, BaseModel):
        value = vars(value)
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for part in value:
            finite(part, name)


def _said(error: ValidationError) -> str:
    """The first complaint of pydantic, on one line."""
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    message = " ".join(str(first["msg"]).split()).removeprefix("Value error, ")
    return f"{place}: {message}" if place else message
