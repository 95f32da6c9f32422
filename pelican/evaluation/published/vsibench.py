"""VSI-Bench: spatial questions about videos of rooms (arXiv 2412.14171).

Follows lmms_eval/tasks/vsibench of vision-x-nyu/thinking-in-space at e6a72f3.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from pelican.data.formats.published import vsibench_item
from pelican.data.tables import RowError
from pelican.evaluation.published.base import (
    LETTER_DIRECTLY,
    Benchmark,
    Clip,
    Context,
    Grade,
    Graded,
    Question,
    Reply,
    Row,
    first_word,
    graded_as,
    means,
)
from pelican.evaluation.published.load import files_below, read_files, text, texts
from pelican.records import Dimension, Family

DIRECTION = "object_rel_direction"
DIRECTIONS = tuple(f"{DIRECTION}_{level}" for level in ("easy", "medium", "hard"))
CHOICES = (*DIRECTIONS, "object_rel_distance", "route_planning", "obj_appearance_order")
NUMBERS = (
    "object_abs_distance",
    "object_counting",
    "object_size_estimation",
    "room_size_estimation",
)
_LIMITS = 1 - np.linspace(0.5, 0.95, 10)


def _rows(folder: Path) -> Iterator[tuple[str, Row]]:
    patterns = ("test.jsonl", "test*.parquet", "*/test*.parquet")
    return read_files(files_below(folder, patterns, "test.jsonl or test*.parquet"), folder)


def _question(row: Row, folder: Path) -> Question:
    item = vsibench_item(row)
    kind, truth = item.category, str(item.answer)
    parts = ["These are frames of a video.", item.question]
    options: tuple[str, ...] = ()
    if kind in CHOICES:
        options = texts(row, "options")
        parts += ["Options:", *options, LETTER_DIRECTLY]
    elif kind in NUMBERS:
        parts.append("Please answer the question using a single word or phrase.")
        value = _float(truth)
        if value is None or not 0 < value < math.inf:
            raise RowError("answer", f"ground_truth {truth!r} is not a number above 0")
    else:
        raise RowError("schema", f"question_type {kind!r} is none of VSI-Bench's")
    return Question(
        id=f"vsibench-{text(row, 'id')}",
        prompt="\n".join(parts),
        media=Clip(item.media),
        truth=truth,
        group=kind,
        scene=item.media.removesuffix(".mp4"),
        options=options,
        chance=1 / len(options) if options else 0.0,
    )


def _float(word: str) -> float | None:
    try:
        return float(word)
    except ValueError:
        return None


def relative_accuracy(predicted: float, truth: float) -> float:
    """Share of the thresholds .50, .55, …, .95 with |p - g| / g <= 1 - threshold, in plain floats.

    So an error of exactly 20 % misses .80: there 1 - .80 is a hair below 0.2.
    """
    return float(np.mean(abs(predicted - truth) / truth <= _LIMITS))


def _grade(question: Question, reply: Reply, context: Context) -> Grade:
    word = first_word(reply.text)
    if question.group in CHOICES:
        return graded_as(word.lower() == question.truth.lower(), word)
    predicted = _float(word)
    if predicted is None:
        return Grade(0.0, word, "unreadable: no number" if word else "no answer")
    value = relative_accuracy(predicted, float(question.truth))
    return Grade(value, word, "" if value else "wrong")


def _scores(graded: Sequence[Graded]) -> dict[str, float]:
    """The mean over question types; the three of direction count as one, a missing one of them 0."""
    kinds = means(graded)
    directions = [kinds.pop(name) for name in DIRECTIONS if name in kinds]
    if directions:
        kinds[DIRECTION] = sum(directions) / len(DIRECTIONS)
    return {"overall": sum(kinds.values()) / len(kinds), **dict(sorted(kinds.items()))}


BENCHMARK = Benchmark(
    name="vsibench",
    title="VSI-Bench",
    suite="embodied",
    family=Family.COUNTING,
    dimension=Dimension.SPATIAL_GEOMETRIC,
    source="arXiv 2412.14171; vision-x-nyu/thinking-in-space e6a72f3",
    layout="test.jsonl or test*.parquet; <dataset>/<scene_name>.mp4",
    metric="mean relative accuracy; exact choice; mean over question types",
    rows=_rows,
    question=_question,
    grade=_grade,
    scores=_scores,
)
