"""One record of a source becomes one sample: its answer, options, family and dimension."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Any, Literal, TypeVar

import numpy as np
from PIL import Image, ImageDraw
from pydantic import TypeAdapter, ValidationError

from pelican.base.parse import parse_json
from pelican.data.entries import RESERVED, answer_fits, first_message, refuse
from pelican.data.formats.base import Found, Record, Reference, Unread
from pelican.data.images import FORMATS, decoding
from pelican.data.importing.media import TEXT_ALONE, Loader
from pelican.data.tables import RowError
from pelican.errors import UserInputError
from pelican.records import (
    Answer,
    BoxAnswer,
    ChoiceAnswer,
    CountAnswer,
    Dimension,
    DistanceAnswer,
    Family,
    IntervalAnswer,
    Mask,
    OpenAnswer,
    PointsAnswer,
    Sample,
    Split,
    StepsAnswer,
    TextAnswer,
    Turn,
    YesNoAnswer,
)
from pelican.rewards.base import Unscorable
from pelican.rewards.families import FAMILIES
from pelican.rewards.masks import encode_mask
from pelican.rewards.parse import ONES, extract_answer, normalise

# `convert`: one record becomes a sample, or says why it can't.

MAX_TEXT = 20_000  # characters of a turn
# What a chat template or a processor would take for its own: it would break the prompt.
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_SPLITS = {
    "train": Split.TRAIN,
    "training": Split.TRAIN,
    "dev": Split.DEV,
    "val": Split.DEV,
    "validation": Split.DEV,
    "test": Split.TEST,
    "testing": Split.TEST,
}


@dataclass(frozen=True)
class Defaults:
    """What a row gets where its source says nothing. With `force_split` every row gets `split`.

    With `text_rows` a row whose field of media is empty is a question in text alone, else it is left
    out: the picture may be lost.
    """

    source: str
    license: str = ""
    split: Literal["train", "dev", "test"] = "train"
    force_split: bool = False
    text_rows: bool = False


@dataclass(frozen=True, slots=True)
class Good:
    """A row that became a sample, with its label, its licence and its place in the source."""

    sample: Sample
    label: Label
    license: str
    place: str
    key: str


@dataclass(frozen=True, slots=True)
class Bad:
    """A row that was left out."""

    place: str
    key: str
    id: str
    code: str
    reason: str


def convert(found: Found, loader: Loader, defaults: Defaults) -> Good | Bad:
    """One record to a sample; reads and decodes its media. A faulty row becomes a `Bad`.

    Raises:
        UserInputError: No video decoder is installed, which is no row's fault.
    """
    if isinstance(found, Unread):
        return Bad(found.place, found.key, found.id, found.error.code, found.error.reason)
    try:
        return _convert(found, loader, defaults)
    except RowError as error:
        return Bad(found.place, found.key, found.id, error.code, error.reason)
    except ValidationError as error:
        return Bad(found.place, found.key, found.id, "schema", first_message(error))
    except UserInputError:
        raise  # no decoder installed: no row's fault
    except Exception as error:  # hostile rows must not end an import of 100,000
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        return Bad(found.place, found.key, found.id, "schema", reason)


def _convert(record: Record, loader: Loader, defaults: Defaults) -> Good:
    turns = tuple(_clean(turn) for turn in record.turns)
    if not turns or turns[-1].role != "user" or not turns[-1].text:
        raise RowError("schema", "the row has no question")
    question = turns[-1].text
    text_alone = not record.media and (record.text_alone or defaults.text_rows)
    loaded = TEXT_ALONE if text_alone else loader.load(record.media)
    mask = record.reference.mask
    opener: Callable[[], bytes] | None = partial(loader.image_bytes, mask) if mask else None
    answer = read_answer(
        record.reference,
        question,
        loaded.size,
        record.question_type,
        mask_bytes=opener,
        shift_s=loaded.start_s,
    )
    if isinstance(answer, ChoiceAnswer):
        turns = (*turns[:-1], Turn(role="user", text=with_options(question, answer)))
    label = classify(question, answer, record.question_type, record.family, record.dimension)
    if text_alone and not record.family:  # the others are about what is seen
        label = Label(Family.GENERAL, label.dimension, label.confidence, "no picture")
    source = record.source or defaults.source
    sample = Sample(
        id=f"{source}/{record.id or record.key}",
        media_kind="text" if text_alone else "clip" if loaded.clip else "image",
        images=loaded.images,
        times_s=loaded.times_s,
        turns=turns,
        family=label.family,
        dimension=label.dimension,
        answer=answer,
        source=source,
        scene=record.scene or f"{source}/{loaded.scene or record.key}",
        split=_split(record.split, defaults),
        benchmark=record.benchmark or "default",
        # A blind guess among equals; for other kinds nobody has measured one.
        chance=1 / len(answer.options) if isinstance(answer, ChoiceAnswer) else 0.0,
    )
    answer_fits(sample)
    try:  # JSON may name half a character, as "\ud800" does
        "".join((sample.id, source, sample.scene, sample.benchmark, record.license)).encode()
        answer.model_dump_json()
    except ValueError:
        raise RowError("text", "text is not UTF-8") from None
    return Good(sample, label, record.license or defaults.license, record.place, record.key)


def _clean(turn: Turn) -> Turn:
    if len(turn.text) > MAX_TEXT:
        raise RowError("text_long", f"a turn has {len(turn.text)} characters, above {MAX_TEXT}")
    for markup in (RESERVED, _CONTROL):
        refuse(markup, turn.text)
    try:
        turn.text.encode()
    except UnicodeEncodeError:
        raise RowError("text", "text is not UTF-8") from None
    text = turn.text.strip()
    return turn if text == turn.text else Turn(role=turn.role, text=text)


def with_options(question: str, answer: ChoiceAnswer) -> str:
    """The question with its lettered options, which some sources keep apart."""
    if options_in(question) or all(option in question for option in answer.options):
        return question
    listed = [f"{chr(ord('A') + i)}. {o}" for i, o in enumerate(bare_options(answer.options))]
    return "\n".join([question, *listed])


def _split(said: str, defaults: Defaults) -> Split:
    if not defaults.force_split and said.lower() in _SPLITS:
        return _SPLITS[said.lower()]
    return Split(defaults.split)


# The answer, as one of Pelican's kinds: its form decides, then the question and its type.

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
    if len(numbers) == len(value) and len(value) in (2, 4):
        if len(value) == 2 and _ABOUT_TIME.search(f"{question} {question_type}"):
            return _interval(numbers[0], numbers[1], shift_s)
        return region_answer([numbers], reference, question, size)
    nested = [list(v) for v in value if isinstance(v, list | tuple)]
    if nested and len(nested) == len(value):
        if not all(isinstance(n, int | float) for group in nested for n in group):
            raise RowError("answer", "the answer is a list of lists that hold no coordinates")
        return region_answer(nested, reference, question, size)
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
        return region_answer(groups, reference, question, size)
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


# Points, boxes and masks, on the grid that the question names (such as 0 to 1000).

POINT_RADIUS = 0.03  # of the longer side: a point without a mask stands for a disc [D]
MASK_SIDE = 256  # pixels of the longer side of a mask that is drawn from points
_GRID = re.compile(
    r"\b(?:0|zero)\s*(?:to|-|–|and|,)\s*(1000|999|100|99|1)\b(?!\.\d)", re.IGNORECASE
)


def grid(question: str, groups: Sequence[Sequence[float]] | None) -> int:
    """The grid on which the question asks: 1, 100 or 1000 per side."""
    match = _GRID.search(question)
    if match:
        return {"999": 1000, "99": 100}.get(match[1]) or int(match[1])
    if groups is None or all(0 <= v <= 1 for group in groups for v in group):
        return 1
    raise RowError(
        "answer",
        "coordinates above 1, and the question names no grid such as 0 to 1000; add it to the"
        " question, or divide by the image's width and height",
    )


def region_answer(
    groups: Sequence[Sequence[float]], reference: Reference, question: str, size: tuple[int, int]
) -> Answer:
    """A box, or points as a mask of discs. Raises RowError if one leaves the frame."""
    scale = reference.scale or grid(question, groups)
    if any(not 0 <= v <= scale for group in groups for v in group):
        raise RowError("answer", f"a point lies outside its frame of {scale} x {scale}")
    if len(groups) == 1 and len(groups[0]) == 4:
        x0, y0, x1, y1 = groups[0]
        return BoxAnswer(box=(x0, y0, x1, y1), scale=scale)
    if any(len(group) != 2 for group in groups):
        raise RowError("answer", "a point has two coordinates, a box four")
    return PointsAnswer(mask=discs([(x / scale, y / scale) for x, y in groups], size), scale=scale)


def discs(points: Sequence[tuple[float, float]], size: tuple[int, int]) -> Mask:
    """A mask of a disc of POINT_RADIUS around each point (0 to 1) in an image's proportions."""
    factor = min(1.0, MASK_SIDE / max(size))
    width, height = (max(1, round(side * factor)) for side in size)
    image = Image.new("L", (width, height))
    radius = max(1.0, POINT_RADIUS * max(width, height))
    draw = ImageDraw.Draw(image)
    for x, y in points:
        cx, cy = min(x * width, width - 1), min(y * height, height - 1)
        draw.ellipse((cx - radius, cy - radius, cx + radius, cy + radius), fill=1)
    return encode_mask(np.asarray(image))


def read_mask(data: bytes, size: tuple[int, int]) -> Mask:
    """A mask image: what is brighter than half is inside. Raises RowError if it fits no `size`."""
    with decoding("answer", "the mask"), Image.open(io.BytesIO(data), formats=FORMATS) as image:
        if image.size != size:
            raise RowError(
                "mask_size",
                f"a mask of {image.width} x {image.height} for an image of {size[0]} x {size[1]}",
            )
        grey = np.asarray(image.convert("L"))
    # Masks of 0 and 1 are as common as masks of 0 and 255.
    pixels = (grey > (127 if grey.max(initial=0) > 1 else 0)).astype(np.uint8)
    if not pixels.any():
        raise RowError("answer", "the mask is empty")
    return encode_mask(pixels)


# Labels: the family and the capability dimension of a question, by rules, with a confidence.

F, D = Family, Dimension
M = TypeVar("M", bound=StrEnum)


@dataclass(frozen=True, slots=True)
class Label:
    """Family and dimension of a question, by which `rule`, and how sure: 1 is a source's or person's word."""

    family: Family
    dimension: Dimension
    confidence: float
    rule: str


# Question types as data sets and benchmarks name them: exact, lower case, spaces as underscores.
TYPES: dict[str, tuple[Family, Dimension]] = {
    # VSI-Bench
    "object_counting": (F.COUNTING, D.QUANTITATIVE_NUMERICAL),
    "object_abs_distance": (F.COUNTING, D.QUANTITATIVE_NUMERICAL),
    "object_size_estimation": (F.COUNTING, D.QUANTITATIVE_NUMERICAL),
    "room_size_estimation": (F.COUNTING, D.QUANTITATIVE_NUMERICAL),
    "object_rel_distance": (F.COUNTING, D.SPATIAL_GEOMETRIC),
    "object_rel_direction_easy": (F.COUNTING, D.SPATIAL_GEOMETRIC),
    "object_rel_direction_medium": (F.COUNTING, D.SPATIAL_GEOMETRIC),
    "object_rel_direction_hard": (F.COUNTING, D.SPATIAL_GEOMETRIC),
    "route_planning": (F.PLANNING, D.DECISION_PLANNING),
    "obj_appearance_order": (F.TEMPORAL, D.TEMPORAL_SEQUENTIAL),
    # RefSpatial, Where2Place
    "location": (F.AFFORDANCE, D.SPATIAL_GEOMETRIC),
    "placement": (F.AFFORDANCE, D.AFFORDANCE_FUNCTION),
    "unseen": (F.AFFORDANCE, D.SPATIAL_GEOMETRIC),
    # Open-EQA
    "object_recognition": (F.GENERAL, D.PERCEPTION_GROUNDING),
    "attribute_recognition": (F.GENERAL, D.PERCEPTION_GROUNDING),
    "object_state_recognition": (F.SUCCESS, D.SCENE_ACTION_UNDERSTANDING),
    "object_localization": (F.GENERAL, D.PERCEPTION_GROUNDING),
    "spatial_understanding": (F.GENERAL, D.SPATIAL_GEOMETRIC),
    "functional_reasoning": (F.AFFORDANCE, D.AFFORDANCE_FUNCTION),
    "world_knowledge": (F.GENERAL, D.DECISION_PLANNING),
    # MVBench
    "action_sequence": (F.TEMPORAL, D.TEMPORAL_SEQUENTIAL),
    "action_prediction": (F.PREDICTION, D.TEMPORAL_SEQUENTIAL),
    "action_antonym": (F.TEMPORAL, D.SCENE_ACTION_UNDERSTANDING),
    "action_count": (F.COUNTING, D.QUANTITATIVE_NUMERICAL),
    "action_localization": (F.TEMPORAL, D.TEMPORAL_SEQUENTIAL),
    "fine_grained_action": (F.TEMPORAL, D.SCENE_ACTION_UNDERSTANDING),
    "unexpected_action": (F.TEMPORAL, D.SCENE_ACTION_UNDERSTANDING),
    "object_existence": (F.TEMPORAL, D.MULTI_OBJECT_CONSISTENCY),
    "object_interaction": (F.TEMPORAL, D.SCENE_ACTION_UNDERSTANDING),
    "object_shuffle": (F.TEMPORAL, D.MULTI_OBJECT_CONSISTENCY),
    "moving_attribute": (F.TEMPORAL, D.MULTI_OBJECT_CONSISTENCY),
    "moving_count": (F.COUNTING, D.QUANTITATIVE_NUMERICAL),
    "moving_direction": (F.TEMPORAL, D.SPATIAL_GEOMETRIC),
    "scene_transition": (F.TEMPORAL, D.SCENE_ACTION_UNDERSTANDING),
    "state_change": (F.SUCCESS, D.SCENE_ACTION_UNDERSTANDING),
    "character_order": (F.TEMPORAL, D.TEMPORAL_SEQUENTIAL),
    "counterfactual_inference": (F.PREDICTION, D.PHYSICAL_CAUSAL),
    "episodic_reasoning": (F.TEMPORAL, D.TEMPORAL_SEQUENTIAL),
    "egocentric_navigation": (F.PLANNING, D.DECISION_PLANNING),
}

# In order; the first that matches the question wins.
_WORD_RULES: tuple[tuple[str, Family, Dimension, float], ...] = (
    (r"\b(?:next (?:step|action|subtask)|what should .* (?:do|be done)|plan\b|steps? (?:to|are needed))",
     F.PLANNING, D.DECISION_PLANNING, 0.8),
    (r"\b(?:success(?:ful|fully|fully)?|succeed|complet(?:e|ed)|accomplish|fail(?:ed|ure)?)\b",
     F.SUCCESS, D.SCENE_ACTION_UNDERSTANDING, 0.8),
    (r"\b(?:will happen|will .* (?:fall|hit|move|be)|going to|predict|what happens (?:next|if)|would happen)",
     F.PREDICTION, D.PHYSICAL_CAUSAL, 0.8),
    (r"\b(?:how many|number of|count)\b", F.COUNTING, D.QUANTITATIVE_NUMERICAL, 0.9),
    (r"\b(?:how (?:far|tall|long|wide|big|large|high)|distance|height|width|size) .*\b(?:cm|m|meters?|metres?|inch|inches|feet)\b",
     F.COUNTING, D.QUANTITATIVE_NUMERICAL, 0.85),
    (r"\b(?:grasp|grab|pick up|place (?:it|the)|put (?:it|the)|where (?:can|should|would)|afford|push|handle|vacant|free space)\b",
     F.AFFORDANCE, D.AFFORDANCE_FUNCTION, 0.7),
    (r"\b(?:before|after|first|last|order|sequence|when (?:did|does|is))\b",
     F.TEMPORAL, D.TEMPORAL_SEQUENTIAL, 0.7),
    (r"\b(?:why|cause|because)\b", F.TEMPORAL, D.PHYSICAL_CAUSAL, 0.7),
    (r"\b(?:left|right|above|below|behind|in front of|closest|nearest|farthest|direction)\b",
     F.COUNTING, D.SPATIAL_GEOMETRIC, 0.5),
)  # fmt: skip
_RULES = tuple((re.compile(p, re.IGNORECASE | re.DOTALL), f, d, c) for p, f, d, c in _WORD_RULES)

# Where no other rule fits: what the kind of answer suggests.
_KINDS: dict[str, tuple[Family, Dimension, float]] = {
    "points": (F.AFFORDANCE, D.PERCEPTION_GROUNDING, 0.6),
    "box": (F.AFFORDANCE, D.PERCEPTION_GROUNDING, 0.6),
    "distance": (F.COUNTING, D.QUANTITATIVE_NUMERICAL, 0.8),
    "count": (F.COUNTING, D.QUANTITATIVE_NUMERICAL, 0.6),
    "order": (F.TEMPORAL, D.TEMPORAL_SEQUENTIAL, 0.7),
    "interval": (F.TEMPORAL, D.TEMPORAL_SEQUENTIAL, 0.9),
    "steps": (F.PLANNING, D.DECISION_PLANNING, 0.7),
}
_REST = (F.GENERAL, D.PERCEPTION_GROUNDING, 0.2)


def classify(
    question: str, answer: Answer, question_type: str = "", family: str = "", dimension: str = ""
) -> Label:
    """The label of a question; `family` and `dimension` as the source says them, if it does.

    The family always has a reward for the answer's kind: a free answer to a question of affordance
    is general, since nothing there could score it.
    """
    guess = _guess(question, answer.kind, question_type)
    if family or dimension:
        said_family = _member(Family, family, guess.family)
        said_dimension = _member(Dimension, dimension, guess.dimension)
        whole = bool(family and dimension)
        guess = Label(said_family, said_dimension, 1.0 if whole else guess.confidence, "source")
    if answer.kind in FAMILIES[guess.family]:
        return guess
    other, _, sure = _KINDS.get(answer.kind, _REST)
    return Label(
        other, guess.dimension, min(sure, guess.confidence), f"{guess.rule}, no reward there"
    )


def _guess(question: str, kind: str, question_type: str) -> Label:
    name = re.sub(r"[\s-]+", "_", question_type.strip().lower())
    if name in TYPES:
        return Label(*TYPES[name], 0.95, f"type {name}")
    if kind in ("points", "box", "distance", "interval", "order"):
        family, dimension, sure = _KINDS[kind]
        for pattern, found, of, _ in _RULES:
            if found is family and pattern.search(question):
                return Label(family, of, max(sure, 0.8), f"answer {kind}")
        return Label(family, dimension, sure, f"answer {kind}")
    for pattern, family, dimension, sure in _RULES:
        match = pattern.search(question)
        if match:
            return Label(
                family, dimension, sure, f"word {' '.join(match[0].lower().split())[:30]!r}"
            )
    if kind in _KINDS:
        return Label(*_KINDS[kind], f"answer {kind}")
    return Label(*_REST, "none")


def _member(kind: type[M], name: str, otherwise: M) -> M:
    if not name:
        return otherwise
    try:
        return kind(name)
    except ValueError:
        known = ", ".join(kind)
        raise RowError(
            "schema", f"{name!r} is no {kind.__name__.lower()}; there are {known}"
        ) from None
