"""From an answer as the source has it to one of Pelican's kinds, checked against its media."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

from pydantic import TypeAdapter, ValidationError

from pelican.data.importing.choices import LETTER, choice_of, options_in
from pelican.data.importing.measures import HOW_MANY, UNITS, number_of
from pelican.data.importing.points import grid, located, read_mask
from pelican.data.quarantine import RowError
from pelican.data.readers.base import Reference
from pelican.records import (
    Answer,
    CountAnswer,
    IntervalAnswer,
    OpenAnswer,
    PointsAnswer,
    StepsAnswer,
    TextAnswer,
    YesNoAnswer,
)
from pelican.rewards.base import Unscorable
from pelican.rewards.extract import extract_answer
from pelican.rewards.parse.numbers import ONES
from pelican.rewards.parse.text import normalise

TEXT_WORDS = 4  # a longer free answer can't be asked for word by word
_ANSWER: TypeAdapter[Answer] = TypeAdapter(Answer)
_NUMBER = r"[-+]?(?:\d+(?:,\d{3})*(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?"
_MEASURE = re.compile(rf"\s*({_NUMBER}|nan|[-+]?inf(?:inity)?)\s*([a-zA-Z]*)\.?\s*", re.IGNORECASE)
_GROUP = re.compile(rf"[\[(]\s*({_NUMBER}|nan)((?:\s*,\s*(?:{_NUMBER}|nan)){{1,3}})\s*[\])]", re.I)
_SPAN = re.compile(
    rf"(?:from\s+)?({_NUMBER})\s*(?:s|sec|seconds)?\s*(?:-|–|to|,)\s*({_NUMBER})\s*(?:s|sec|seconds)?\.?",
    re.IGNORECASE,
)
_WORDS = ONES[:13]  # zero to twelve
_STEP = re.compile(r"^\s*(?:step\s*)?\d{1,2}[.):]\s*(.+)$", re.IGNORECASE | re.MULTILINE)
_ABOUT_TIME = re.compile(
    r"\bwhen\b|\btime (?:span|interval)\b|\binterval\b|\btemporal", re.IGNORECASE
)


def read_answer(
    reference: Reference,
    question: str,
    size: tuple[int, int],
    question_type: str = "",
    *,
    mask_bytes: Callable[[], bytes] | None = None,
    shift_s: float = 0.0,
) -> Answer:
    """The answer to `question` about an image of `size` (width, height).

    `mask_bytes` opens the reference's mask; `shift_s`, the start of a clip in its video, is taken
    from times. Raises RowError with code `answer`, `not_finite` or `mask_size`.
    """
    try:
        if reference.kind == "pelican":
            return _ANSWER.validate_python(reference.value)
        if mask_bytes is not None:
            mask = read_mask(mask_bytes(), size)
            return PointsAnswer(mask=mask, scale=reference.scale or grid(question, None))
        value = reference.value
        _finite(value)
        if value is None or value == "":
            raise RowError("answer_missing", "the row has no answer")
        if isinstance(value, str):
            value = _plain(value)
        if reference.options or reference.kind == "choice":
            return choice_of(value, reference)
        if isinstance(value, bool):
            return YesNoAnswer(value=value)
        if isinstance(value, int | float):
            return number_of(value, reference.unit, question, question_type)
        if isinstance(value, list | tuple):
            return _listed(value, reference, question, question_type, size, shift_s)
        return _text(str(value), reference, question, question_type, size, shift_s)
    except ValidationError as error:
        said = error.errors(include_url=False, include_input=False)[0]["msg"]
        raise RowError("answer", " ".join(said.split()).removeprefix("Value error, ")) from None


def _finite(value: object) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise RowError("not_finite", f"the answer holds {value}")
    if isinstance(value, list | tuple):
        for part in value:
            _finite(part)


def _plain(text: str) -> str:
    """The answer inside `<answer>` or `\\boxed{}`, else the text as it is. Raises RowError."""
    if "<answer>" not in text and "</think>" not in text and "\\boxed" not in text:
        return text.strip()
    try:
        return extract_answer(text).text
    except Unscorable as error:
        raise RowError("answer", f"the answer can't be read ({error.reason})") from None


def _listed(
    value: Sequence[Any],
    reference: Reference,
    question: str,
    question_type: str,
    size: tuple[int, int],
    shift_s: float,
) -> Answer:
    numbers = [v for v in value if isinstance(v, int | float) and not isinstance(v, bool)]
    if len(numbers) == len(value) and len(value) in (2, 4):
        if len(value) == 2 and _ABOUT_TIME.search(f"{question} {question_type}"):
            return _interval(numbers[0], numbers[1], shift_s)
        return located([numbers], reference, question, size)
    nested = [list(v) for v in value if isinstance(v, list | tuple)]
    if nested and len(nested) == len(value):
        if not all(isinstance(n, int | float) for group in nested for n in group):
            raise RowError("answer", "a list of lists that are no coordinates")
        return located(nested, reference, question, size)
    texts = [str(v).strip() for v in value]
    if not texts or not all(texts):
        raise RowError("answer_missing", "the row has no answer")
    if len(texts) == 1:
        return _text(texts[0], reference, question, question_type, size, shift_s)
    return StepsAnswer(steps=tuple(texts))


def _interval(start: float, end: float, shift_s: float) -> IntervalAnswer:
    return IntervalAnswer(start=max(0.0, start - shift_s), end=end - shift_s)


def _text(
    text: str,
    reference: Reference,
    question: str,
    question_type: str,
    size: tuple[int, int],
    shift_s: float,
) -> Answer:
    groups = [
        [float(n) for n in (a + b).replace(" ", "").split(",")] for a, b in _GROUP.findall(text)
    ]
    if reference.kind == "points" and not groups:
        raise RowError("answer", f"no point in the answer {text!r:.80}")
    spanned = len(groups) == 1 and len(groups[0]) == 2 and "(" not in text
    if groups and not (spanned and _ABOUT_TIME.search(f"{question} {question_type}")):
        _finite(groups)
        return located(groups, reference, question, size)
    options = options_in(question)
    if options and (LETTER.match(text) or any(normalise(o) == normalise(text) for o in options)):
        return choice_of(text, Reference(options=options))
    if normalise(text) in ("yes", "no"):
        return YesNoAnswer(value=normalise(text) == "yes")
    opening = re.match(r"(yes|no)\s*[,.;]", text, re.IGNORECASE)
    if opening:
        return YesNoAnswer(value=opening[1].lower() == "yes")
    span = _SPAN.fullmatch(text.strip("[]() "))
    if span and _ABOUT_TIME.search(f"{question} {question_type}"):
        return _interval(float(span[1]), float(span[2]), shift_s)
    if HOW_MANY.search(question) and normalise(text) in _WORDS:
        return CountAnswer(value=_WORDS.index(normalise(text)))
    measure = _MEASURE.fullmatch(text)
    if measure and (not measure[2] or measure[2].lower() in UNITS):
        number = float(measure[1].replace(",", ""))
        _finite(number)
        return number_of(number, measure[2] or reference.unit, question, question_type)
    steps = [step.strip() for step in _STEP.findall(text)]
    if len(steps) > 1:
        return StepsAnswer(steps=tuple(steps))
    if text.startswith("[") and text.endswith("]"):
        try:
            parsed = json.loads(text)
        except ValueError:
            parsed = None
        if isinstance(parsed, list):
            _finite(parsed)
            return _listed(parsed, reference, question, question_type, size, shift_s)
    if reference.unit:
        raise RowError("answer", f"answer {text!r:.80} is no number of {reference.unit}")
    if len(text.split()) <= TEXT_WORDS:
        return TextAnswer(value=text, aliases=reference.aliases)
    return OpenAnswer(reference=text)
