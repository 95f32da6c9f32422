"""EgoSchema: long first-person videos, five choices (arXiv 2308.09126).

The reply is read as EvolvingLMMs-Lab/lmms-eval 75571cf does (tasks/egoschema); the data set itself
publishes accuracy over letters alone, and answers of 500 questions.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pelican.data.formats.published import egoschema_item, join_answer, read_answers
from pelican.evaluation.published.base import (
    LETTER_DIRECTLY,
    Benchmark,
    Clip,
    Context,
    Grade,
    Question,
    Reply,
    Row,
    graded_as,
    listed_letter,
    over_questions,
)
from pelican.evaluation.published.load import (
    files_below,
    letter_of,
    lettered,
    read_files,
)
from pelican.records import Dimension, Family


def _rows(folder: Path) -> Iterator[tuple[str, Row]]:
    patterns = ("questions.json", "Subset/*.parquet", "*.parquet")
    files = files_below(folder, patterns, "questions.json or Subset/*.parquet")
    answers = read_answers(folder)
    for name, row in read_files(files, folder):
        yield name, join_answer(row, answers)


def _question(row: Row, folder: Path) -> Question | None:
    item = egoschema_item(row)
    if item.answer is None:
        return None  # of the 5031, only 500 answers are public
    options = item.options
    if not isinstance(row.get("option"), list):  # lmms-eval's are lettered already
        options = tuple(lettered(options, "{letter}. {option}").split("\n"))
    video = next((p for p in ("videos", ".") if (folder / p / item.media).is_file()), "videos")
    return Question(
        id=f"egoschema-{item.id}",
        prompt="\n".join([item.question, *options, LETTER_DIRECTLY]),
        media=Clip(f"{video}/{item.media}"),
        truth=letter_of(item.answer, len(options)),
        group="egoschema",
        scene=item.scene,
        options=options,
        chance=1 / len(options),
    )


def _grade(question: Question, reply: Reply, context: Context) -> Grade:
    letter = listed_letter(reply.text, question.options)
    return graded_as(letter == question.truth, letter)


BENCHMARK = Benchmark(
    name="egoschema",
    title="EgoSchema",
    suite="embodied",
    family=Family.TEMPORAL,
    dimension=Dimension.TEMPORAL_SEQUENTIAL,
    source="arXiv 2308.09126; egoschema/EgoSchema 505c787; EvolvingLMMs-Lab/lmms-eval 75571cf",
    layout="questions.json, subset_answers.json, videos/<q_uid>.mp4; or lmms-eval's Parquet",
    metric="exact choice over the questions whose answer is public",
    rows=_rows,
    question=_question,
    grade=_grade,
    scores=over_questions,
)
