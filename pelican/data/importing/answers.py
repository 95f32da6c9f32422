"""The answer of a source, as one of Pelican's kinds: its form decides, then the question and its type."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

from pydantic import TypeAdapter, ValidationError

from pelican.base.parse import parse_json
from pelican.data.entries import first_message
from pelican.data.formats.base import Reference
from pelican.data.importing.regions import grid_of_mask, read_mask, region_answer
from pelican.data.tables import RowError
from pelican.records import (
    Answer,
    ChoiceAnswer,
    CountAnswer,
    DistanceAnswer,
    IntervalAnswer,
    OpenAnswer,
    PointsAnswer,
    StepsAnswer,
    TextAnswer,
    YesNoAnswer,
)
from pelican.rewards.base import Unscorable
from pelican.rewards.parse import extract_answer, normalise
from pelican.rewards.quantities import ONES

TEXT_WORDS = 4  # a longer free answer can't be asked for word by word
_ANSWER: TypeAdapter[Answer] = TypeAdapter(Answer)
_NUMBER = r"[-+]?(?:\d+(?:,\d{3})*(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?"
_MEASURE = re.compile(rf"\s*({_NUMBER}|nan|[-+]?inf(?:inity)?)\s*([a-zA-Z]*)\.?\s*", re.IGNORECASE)
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
            return PointsAnswer(mask=mask, scale=grid_of_mask(reference, question))
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
        raise RowError("answer", first_message(error)) from None


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
    pair = len(value) == len(numbers) == 2
    if pair and _ABOUT_TIME.search(f"{question} {question_type}"):
        return _interval(numbers[0], numbers[1], shift_s)
    region = None
    if numbers or any(isinstance(v, list | tuple | dict) for v in value):
        region = region_answer(json.dumps(value, default=str), reference, question, size)
    if region is not None:
        return region
    if value and all(isinstance(v, list | tuple) for v in value):
        raise RowError("answer", "the answer is a list of lists that hold no coordinates")
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
    spanned = "(" not in text and _SPAN.fullmatch(text.strip("[] "))
    if not (spanned and _ABOUT_TIME.search(f"{question} {question_type}")):
        region = region_answer(text, reference, question, size)
        if region is not None:
            return region
    if reference.kind == "points":
        raise RowError("answer", f"no point in the answer {text!r:.80}")
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
            parsed = parse_json(text)
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


# Multiple choice: the options in their many spellings, and the one that an answer means.

LETTER = re.compile(r"\s*(?:[(\[]([A-Za-z])[)\]]|([A-Z])[).:]|([A-Za-z])\s*$)(?=\s|$)")
_OPTION = re.compile(
    r"(?:^|\n|\s)\(?([A-H])[).:]\s*(.+?)(?=\s*(?:\n|\s)\(?[A-H][).:]\s|\s*$)", re.S
)


def bare_options(options: Sequence[str]) -> tuple[str, ...]:
    """Options without the letters that some sources put before them."""
    found = []
    for number, option in enumerate(options):
        letter = chr(ord("A") + number) if number < 26 else "?"
        match = re.match(rf"\s*\(?{letter}[).:]\s*(?=\S)", option)
        found.append(option[match.end() :].strip() if match else option.strip())
    return tuple(found)


def options_in(question: str) -> tuple[str, ...]:
    """The options that stand in a question as "A. … B. …"; empty if they are not A, B, C, …"""
    found = _OPTION.findall(question)
    letters = "".join(letter for letter, _ in found)
    if len(found) < 2 or letters != "ABCDEFGH"[: len(found)]:
        return ()
    return tuple(" ".join(text.split()) for _, text in found)


def choice_of(value: Any, reference: Reference) -> ChoiceAnswer:
    """The option that is named by its letter, its text or its index. Raises RowError."""
    options = bare_options(reference.options)
    if not 2 <= len(options) <= 26:
        raise RowError(
            "answer", f"the answer has {len(options)} choices; a question needs two to 26"
        )
    if len({normalise(option) for option in options}) < len(options):
        raise RowError("answer", f"two choices are the same: {' / '.join(options)}")
    if isinstance(value, list | tuple) and len(value) == 1:
        value = value[0]
    at: int | None = None
    if isinstance(value, int) and not isinstance(value, bool):
        at = value
    elif isinstance(value, str):
        exact = [i for i, o in enumerate(options) if normalise(o) == normalise(value)]
        lettered = [i for i, o in enumerate(reference.options) if normalise(o) == normalise(value)]
        letter = LETTER.match(value)
        if exact or lettered:
            at = (exact or lettered)[0]
        elif letter:
            at = ord((letter[1] or letter[2] or letter[3]).upper()) - ord("A")
        elif value.strip().isdecimal() and reference.index:
            at = int(value)
    if at is None:
        raise RowError("answer", f"answer {value!r:.80} is none of its {len(options)} choices")
    if not 0 <= at < len(options):
        raise RowError("answer", f"answer {value!r} is outside its {len(options)} choices")
    return ChoiceAnswer(options=options, answer=chr(ord("A") + at))


# Numbers: a count, or a length and its unit.

# Units as sources write them: our unit, and the factor to it ("km" is 1000 of our "m").
UNITS: dict[str, tuple[str, float]] = {
    **dict.fromkeys(("mm", "millimeter", "millimeters", "millimetres"), ("mm", 1.0)),
    **dict.fromkeys(("cm", "centimeter", "centimeters", "centimetre", "centimetres"), ("cm", 1.0)),
    **dict.fromkeys(("m", "meter", "meters", "metre", "metres"), ("m", 1.0)),
    **dict.fromkeys(("in", "inch", "inches"), ("in", 1.0)),
    **dict.fromkeys(("ft", "foot", "feet"), ("ft", 1.0)),
    **dict.fromkeys(("km", "kilometers", "kilometres"), ("m", 1000.0)),
}
_IN_UNIT = re.compile(r"\bin\s+(?:square\s+)?([a-z]+)\b", re.IGNORECASE)
HOW_MANY = re.compile(r"\bhow many\b|\bnumber of\b|\bcount\b", re.IGNORECASE)


def number_of(value: float, unit: str, question: str, question_type: str) -> Answer:
    """A count or a length, by the unit, the question and its type. Raises RowError."""
    if not unit and (match := _IN_UNIT.search(question)) and match[1].lower() in UNITS:
        unit = match[1]
    counted = "count" in question_type.lower() or bool(HOW_MANY.search(question))
    if unit and not (counted and float(value).is_integer() and not _IN_UNIT.search(question)):
        known = UNITS.get(unit.lower())
        if known is None:
            raise RowError("answer", f"unit {unit!r} is not known; write mm, cm, m, km, in or ft")
        if value <= 0:
            raise RowError(
                "answer", f"a length of {value:g} {unit} can't be scored; it must be above 0"
            )
        return DistanceAnswer(value=value * known[1], unit=known[0])
    if float(value).is_integer() and value >= 0:
        return CountAnswer(value=int(value))
    raise RowError(
        "answer", f"{value:g} is no count, and no unit is given; add a field unit for a length"
    )


def with_options(question: str, answer: ChoiceAnswer) -> str:
    """The question with its lettered options, which some sources keep apart."""
    if options_in(question) or all(option in question for option in answer.options):
        return question
    listed = [f"{chr(ord('A') + i)}. {o}" for i, o in enumerate(bare_options(answer.options))]
    return "\n".join([question, *listed])
