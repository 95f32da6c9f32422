"""OmniSpatial: spatial reasoning over one image, four choices (arXiv 2506.03135).

Follows api_eval.py of qizekun/OmniSpatial at 208bac2, with its evaluation type "re".
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from pelican.evaluation.published.base import (
    Benchmark,
    Context,
    Grade,
    Picture,
    Question,
    Reply,
    Row,
    graded_as,
    over_questions,
)
from pelican.evaluation.published.load import (
    files_below,
    letter_of,
    lettered,
    read_files,
    text,
    texts,
)
from pelican.records import Dimension, Family

_FORMAT = (
    "End your answer with a separate line formatted exactly as:\n\nAnswer: X\n"
    "where X ∈ {A, B, C, D}."
)
_STATED = re.compile(r"Answer\s*:\s*([A-D])\b", re.IGNORECASE)


def _rows(folder: Path) -> Iterator[tuple[str, Row]]:
    return read_files(files_below(folder, ("data.json", "*/data.json"), "data.json"), folder)


def _question(row: Row, folder: Path) -> Question:
    task, name = text(row, "task_type"), text(row, "id")
    options = texts(row, "options")
    root = "" if (folder / "data.json").is_file() else next(folder.glob("*/data.json")).parent.name
    image = f"{task}/{name.split('_')[0]}.png"
    return Question(
        id=f"omnispatial-{task}-{name}",
        prompt="\n".join(
            [_FORMAT, "", text(row, "question"), lettered(options, "{letter}. {option}")]
        ),
        media=(Picture(path=f"{root}/{image}" if root else image),),
        truth=letter_of(row.get("answer"), len(options)),
        group=f"{task}/{text(row, 'sub_task_type')}",
        scene=image,
        options=options,
        chance=1 / len(options),
    )


def stated_letter(reply: Reply) -> str:
    """The last "Answer: X"; in an answer that was marked as such, also its first character."""
    stated = _STATED.findall(reply.text)
    if stated:
        return str(stated[-1])
    return reply.text.strip().upper()[:1] if reply.tagged else ""


def _grade(question: Question, reply: Reply, context: Context) -> Grade:
    letter = stated_letter(reply)
    # A small letter is read but never right, as published.
    return graded_as(letter == question.truth, letter)


BENCHMARK = Benchmark(
    name="omnispatial",
    title="OmniSpatial",
    suite="embodied",
    family=Family.TEMPORAL,
    dimension=Dimension.SPATIAL_GEOMETRIC,
    source="arXiv 2506.03135; qizekun/OmniSpatial 208bac2",
    layout="data.json; <task_type>/<id before _>.png",
    metric='exact choice: the last "Answer: X"; mean over the questions',
    rows=_rows,
    question=_question,
    grade=_grade,
    scores=over_questions,
)
