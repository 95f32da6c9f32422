"""EgoSchema: long first-person videos, five choices (arXiv 2308.09126).

The reply is read as EvolvingLMMs-Lab/lmms-eval 75571cf does (tasks/egoschema); the data set itself
publishes accuracy over letters alone, and answers of 500 questions.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

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
    read_file,
    read_files,
    text,
)
from pelican.records import Dimension, Family


def _rows(folder: Path) -> Iterator[tuple[str, Row]]:
    patterns = ("questions.json", "Subset/*.parquet", "*.parquet")
    files = files_below(folder, patterns, "questions.json or Subset/*.parquet")
    answers: Row = {}
    if (folder / "subset_answers.json").is_file():
        (answers,) = read_file(folder / "subset_answers.json")
    for name, row in read_files(files, folder):
        yield name, {**row, "_answer": answers.get(str(row.get("q_uid")), row.get("answer"))}


def _question(row: Row, folder: Path) -> Question | None:
    if row["_answer"] is None:
        return None  # of the 5031, only 500 answers are public
    name = text(row, "q_uid", "video_idx")
    listed = row.get("option")
    if isinstance(listed, list):
        options = tuple(str(option) for option in listed)
    else:
        plain = [text(row, f"option {i}") for i in range(5)]
        options = tuple(lettered(plain, "{letter}. {option}").split("\n"))
    video = next((p for p in ("videos", ".") if (folder / p / f"{name}.mp4").is_file()), "videos")
    return Question(
        id=f"egoschema-{name}",
        prompt="\n".join([text(row, "question"), *options, LETTER_DIRECTLY]),
        media=Clip(f"{video}/{name}.mp4"),
        truth=letter_of(row["_answer"], len(options)),
        group="egoschema",
        scene=name,
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
