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
from pelican.benchmarks.tfrecord import Feature, read_examples
from pelican.errors import UserInputError
from pelican.records import Dimension, Family


def _rows(folder: Path) -> Iterator[tuple[str, Row]]:
    patterns = ("*.tfrecord", "data/*.tfrecord", "*.parquet", "data/*.parquet")
    files = files_below(folder, patterns, "erqa.tfrecord or *.parquet")
    if files[0].suffix == ".parquet":
        yield from read_files(files, folder)
        return
    for path in files:
        try:
            for number, example in enumerate(read_examples(path)):
                yield path.relative_to(folder).as_posix(), _row(number, example)
        except (ValueError, OSError) as error:
            raise UserInputError(f"{path} can't be read ({error}); download it again") from None


def _row(number: int, example: dict[str, Feature]) -> Row:
    """One example of the original file, as the Parquet copy has it."""

    def words(name: str) -> str | None:
        value = next(iter(example.get(name) or ()), None)
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else None

    return {
        "question_id": str(number),
        "question": words("question"),
        "answer": words("answer"),
        "question_type": words("question_type"),
        "images": list(example.get("image/encoded") or ()),
    }


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
    layout="data/erqa.tfrecord, or *.parquet with question, images, answer, question_type",
    metric="exact match, dots and case aside",
    rows=_rows,
    question=_question,
    grade=_grade,
    scores=over_questions,
)
