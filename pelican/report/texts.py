"""What a pool says of a sample, in the words of the pages: its question, its right answer."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import TypeAdapter, ValidationError

from pelican.data.corrections import Corrections
from pelican.data.tables import pool_columns
from pelican.errors import DamagedError, UserInputError
from pelican.records import (
    Answer,
    BoxAnswer,
    ChoiceAnswer,
    CountAnswer,
    DistanceAnswer,
    IntervalAnswer,
    OpenAnswer,
    OrderAnswer,
    PointsAnswer,
    StepsAnswer,
    YesNoAnswer,
)
from pelican.report.history import pool_places
from pelican.report.run import Run
from pelican.stages.stage import resolve_input

_TEXT, _ANSWER = 600, 2000  # characters kept of each
_ANSWERS: TypeAdapter[Answer] = TypeAdapter(Answer)


@dataclass(frozen=True)
class Text:
    """What a pool says of a sample: its question, its answer in words and as JSON."""

    question: str
    answer: str
    json: str


def texts_of(run: Run, ids: set[str], corrections: Corrections) -> dict[str, Text]:
    """The questions and answers of the pools that can be read from here."""
    found: dict[str, Text] = {}
    for where in pool_places(run):
        try:
            folder = resolve_input(run.store, where)
            pool = pool_columns(folder, ("id", "turns", "answer"), corrections)
        except (UserInputError, DamagedError):
            continue  # the page is made where the data is not
        for name, turns, answer in pool.iter_rows():
            if name in ids and name not in found and turns:
                try:
                    right = answer_words(_ANSWERS.validate_json(answer or ""))
                except ValidationError:
                    right = ""
                question = str(turns[-1]["text"])[:_TEXT]
                found[name] = Text(
                    question, right[:_TEXT], answer if len(answer) <= _ANSWER else ""
                )
    return found


def answer_words(answer: Answer) -> str:
    """The right answer as a short text."""
    match answer:
        case PointsAnswer():
            return "points inside the green region"
        case BoxAnswer(box=box):
            return f"box {tuple(round(v, 1) for v in box)}"
        case CountAnswer(value=value):
            return str(value)
        case DistanceAnswer(value=value, unit=unit):
            return f"{value:g} {unit}"
        case ChoiceAnswer(options=options, answer=letter):
            return f"{letter}. {options[ord(letter) - ord('A')]}"
        case YesNoAnswer(value=value):
            return "yes" if value else "no"
        case OrderAnswer(items=items):
            return " → ".join(items)
        case IntervalAnswer(start=start, end=end):
            return f"{start:g} to {end:g} s"
        case StepsAnswer(steps=steps):
            return "; ".join(steps)
        case OpenAnswer(reference=reference):
            return reference
        case _:
            return answer.value
