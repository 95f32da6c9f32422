"""MMStar: general questions that need the image, four choices (arXiv 2403.20330).

Follows eval/vlmeval/evaluate/mmstar.py of MMStar-Benchmark/MMStar at 88f243a.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pelican.evaluation.published.base import Benchmark, Question, Row, by_letter, over_questions
from pelican.evaluation.published.load import files_below, letter_of, picture, read_files, text
from pelican.records import Dimension, Family

_LEADS = ("", "(", "option ", "the answer is ")


def _rows(folder: Path) -> Iterator[tuple[str, Row]]:
    patterns = ("*.parquet", "*/*.parquet")
    return read_files(files_below(folder, patterns, "*.parquet of MMStar"), folder)


def _question(row: Row, folder: Path) -> Question:
    name = text(row, "index")
    return Question(
        id=f"mmstar-{name}",
        prompt=f"{text(row, 'question').strip()}\nAnswer with the option's letter from the given"
        " choices directly",
        media=(picture(row.get("image")),),
        truth=letter_of(text(row, "answer"), 4),
        group=text(row, "category"),
        scene=name,
        chance=0.25,
    )


def letter(reply: str) -> str:
    """The first character, or the one after "(", "option " or "the answer is "; case aside.

    Any character: "Because" gives B.
    """
    plain = reply.lower().strip().replace("\n", " ")
    # The longest lead that fits: after a shorter one no letter A to D could follow but by chance.
    for lead in reversed(_LEADS):
        if plain.startswith(lead) and len(plain) > len(lead):
            return plain[len(lead)].upper()
    return ""


BENCHMARK = Benchmark(
    name="mmstar",
    title="MMStar",
    suite="general",
    family=Family.GENERAL,
    dimension=Dimension.SCENE_ACTION_UNDERSTANDING,
    source="arXiv 2403.20330; MMStar-Benchmark/MMStar 88f243a",
    layout="*.parquet with question, image, answer, category",
    metric="exact choice by the first character, mean over the questions",
    rows=_rows,
    question=_question,
    grade=by_letter(letter),
    scores=over_questions,
)
