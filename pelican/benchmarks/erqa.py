"""ERQA: embodied reasoning over one or several images (Gemini Robotics, arXiv 2503.20020).

The original's eval_harness.py compares the reply without dots, trimmed, in small letters.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pelican.benchmarks.base import (
    Benchmark,
    Context,
    Grade,
    Question,
    Row,
    graded_as,
    over_questions,
)
from pelican.benchmarks.files import (
    files_below,
    pictures,
    read_files,
    text,
    without_placeholders,
)
from pelican.benchmarks.replies import Reply
from pelican.records import Dimension, Family


def _rows(folder: Path) -> Iterator[tuple[str, Row]]:
    patterns = ("*.parquet", "data/*.parquet")
    return read_files(files_below(folder, patterns, "*.parquet of ERQA"), folder)


def _question(row: Row, folder: Path) -> Question:
    name = text(row, "question_id")
    return Question(
        id=f"erqa-{name}",
        prompt=without_placeholders(text(row, "question")),
        media=pictures(row.get("images") or ()),
        truth=text(row, "answer").strip(),
        group=text(row, "question_type"),
        scene=name,
        chance=0.25,
    )


def _grade(question: Question, reply: Reply, context: Context) -> Grade:
    said = reply.text.replace(".", "").strip().lower()
    return graded_as(said == question.truth.lower(), said[:200])


BENCHMARK = Benchmark(
    name="erqa",
    title="ERQA",
    suite="embodied",
    family=Family.PLANNING,
    dimension=Dimension.DECISION_PLANNING,
    source="arXiv 2503.20020; embodiedreasoning/ERQA, eval_harness.py; Parquet of FlagEval/ERQA",
    layout="*.parquet with question, images, answer, question_type",
    metric="exact match, dots and case aside",
    rows=_rows,
    question=_question,
    grade=_grade,
    scores=over_questions,
)
