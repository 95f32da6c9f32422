"""What a benchmark is: questions read from its published layout, a grade for each, scores of all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pelican.benchmarks.replies import Reply
from pelican.evaluation.results import Suite
from pelican.records import Dimension, Family

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Picture:
    """One encoded image: its bytes, or a file below the benchmark's folder."""

    data: bytes | None = None
    path: str = ""


@dataclass(frozen=True, slots=True)
class Clip:
    """A video file below the benchmark's folder, or a folder of its frames at `fps`.

    `start_s` and `end_s` bound the part that is asked about.
    """

    path: str
    start_s: float = 0.0
    end_s: float | None = None
    fps: float | None = None


Media = tuple[Picture, ...] | Clip


@dataclass(frozen=True, slots=True)
class Question:
    """One question. `truth` is the reference in the benchmark's own form (letter, number, polygon).

    `group` is what the published table breaks down by; `scene` keeps questions together that
    succeed and fail together; `mask` is where points must lie.
    """

    id: str
    prompt: str
    media: Media
    truth: str
    group: str
    scene: str = ""
    options: tuple[str, ...] = ()
    mask: Picture | None = None
    chance: float = 0.0


@dataclass(frozen=True, slots=True)
class Grade:
    """`value` in [0, 1], the answer as it was read, and why the value is 0 ("" if it is not)."""

    value: float
    answer: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Graded:
    """One graded question, all that the published scores are computed from."""

    group: str
    value: float


class Ask(Protocol):
    """One reply of a judge model to a prompt; replies are kept, so the same prompt is asked once."""

    def __call__(self, prompt: str, max_tokens: int) -> str: ...


@dataclass(frozen=True)
class Context:
    """What grading may need besides the reply: the folder with masks, and a judge model."""

    folder: Path
    ask: Ask | None = None


@dataclass(frozen=True)
class Benchmark:
    """One benchmark as published.

    rows: the folder's rows with the file that they stand in; raises UserInputError if the layout is
    another. question: one row; raises RowError if it can't be used, gives None if it is not to be
    scored (an answer that is not public). grade: by the published rule. scores: points of 100,
    `overall` first.
    """

    name: str
    title: str
    suite: Suite
    family: Family
    dimension: Dimension
    source: str
    layout: str
    metric: str
    rows: Callable[[Path], Iterable[tuple[str, Row]]]
    question: Callable[[Row, Path], Question | None]
    grade: Callable[[Question, Reply, Context], Grade]
    scores: Callable[[Sequence[Graded]], dict[str, float]]
    frames: int = 32
    needs_judge: bool = False


def means(graded: Sequence[Graded]) -> dict[str, float]:
    """Points of 100 per group, sorted by name."""
    groups: dict[str, list[float]] = {}
    for one in graded:
        groups.setdefault(one.group, []).append(one.value)
    return {name: 100 * sum(v) / len(v) for name, v in sorted(groups.items())}


def over_questions(graded: Sequence[Graded]) -> dict[str, float]:
    """Overall: the mean over the questions."""
    overall = 100 * sum(one.value for one in graded) / len(graded)
    return {"overall": overall, **means(graded)}


def over_groups(graded: Sequence[Graded]) -> dict[str, float]:
    """Overall: the mean over the groups' means."""
    groups = means(graded)
    return {"overall": _mean(groups), **groups}


def _mean(values: Mapping[str, float]) -> float:
    return sum(values.values()) / len(values)


def graded_as(right: bool, answer: str) -> Grade:
    """1 or 0; an empty answer says so."""
    return Grade(float(right), answer, "" if right else "wrong" if answer else "no answer")
