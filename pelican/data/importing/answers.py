"""The answer of a source, as one of Pelican's kinds, read as the reward reads a reply.

Its form decides, then the question and its type. What a reply of the same words would not be scored
for becomes no sample: `check_own_words` holds every row to that.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from pydantic import TypeAdapter, ValidationError

from pelican.base.parse import parse_json
from pelican.config.recipe import RewardConfig
from pelican.data.entries import first_message
from pelican.data.formats.base import ANNOTATORS, Reference
from pelican.data.formats.rows import written_list
from pelican.data.importing.regions import grid_of_mask, named_grid, read_mask, region_answer
from pelican.data.tables import RowError
from pelican.records import (
    Answer,
    ChoiceAnswer,
    CountAnswer,
    DistanceAnswer,
    IntervalAnswer,
    OpenAnswer,
    PointsAnswer,
    Sample,
    StepsAnswer,
    TextAnswer,
    YesNoAnswer,
)
from pelican.rewards.base import Unscorable
from pelican.rewards.parse import (
    MAX_ANSWER_CHARS,
    YES_NO,
    extract_answer,
    normalise,
    parse_choice,
    parse_yes_no,
    split_list,
)
from pelican.rewards.quantities import (
    METRES,
    asked_unit,
    asks_area,
    is_other_quantity,
    own_unit,
    parse_count,
    parse_interval,
    parse_length,
    unit_in,
)
from pelican.rewards.replies import as_reply
from pelican.rewards.score import score
from pelican.rewards.scripts import count_words, touches

TEXT_WORDS = 4  # a longer free answer can't be asked for word by word
_ANSWER: TypeAdapter[Answer] = TypeAdapter(Answer)

# What a question asks for.

HOW_MANY = re.compile(
    r"\bhow many\b|\bnumber of\b|\bcount\b|多少[个個只隻把张張条條辆輛块塊本台杯件支名位次步]|几[个個只隻把张張条條辆輛块塊本台杯件支名位次步]"
    r"|いくつ|何[個本枚人台回]|몇|\bcombien de\b|\bcu[aá]nt[oa]s\b|\bwie viele\b|\bquant[ei]\b|\bquant[oa]s\b"
    r"|\bhoeveel\b|\bhur många\b|\bhvor mange\b|\bkaç\b|\bсколько\b",
    re.IGNORECASE,
)
_ABOUT_TIME = re.compile(
    r"\bwhen\b|\btime (?:span|interval|range|period)\b|\binterval\b|\btemporal|\btimestamps?\b"
    r"|\bstart(?:s|ing)? and (?:the )?end|\b(?:which|what) (?:part|segment|moment|period|seconds?)\b"
    r"|什么时候|何时|时间段|いつ|언제",
    re.IGNORECASE,
)
_ABOUT_LENGTH = re.compile(
    r"\bhow (?:far|tall|long|wide|high|deep|thick|big|large)\b|\b(?:distance|height|width|length|depth"
    r"|size|diameter|thickness|area)\b|多[远遠高长長宽寬深]|距离|距離|高さ|長さ|거리",
    re.IGNORECASE,
)
_ABOUT_DURATION = re.compile(
    r"\bhow long (?:do|does|did|will|would|has|have|can|until)\b|\bduration\b|\bhow much time\b|多久|多长时间",
    re.IGNORECASE,
)
_ABOUT_STEPS = re.compile(
    r"\bsteps?\b|\bplan\b|\bsequence\b|\border\b|\bprocedure\b|\b(?:sort|rank|arrange)\b|步骤|步驟|顺序|順序|计划|手順|단계|순서",
    re.IGNORECASE,
)
_HOW_TO = re.compile(
    r"\bhow (?:do|does|did|would|should|can|could|to|will)\b|怎么|怎麼|如何|どうやって|어떻게",
    re.IGNORECASE,
)
_ABOUT_WRITING = re.compile(
    r"\breads?\b|\bwritten\b|\bsays?\b|\btext\b|\bprinted\b|\blabel(?:led|ed)?\b|\bsign\b|\bplate\b|\bcode\b"
    r"|\bserial\b|\bdisplay(?:s|ed)?\b|\bshow(?:s|n)?\b|\bclock\b|\bword\b|(?<!at )\bwhat time\b|写|寫|書",
    re.IGNORECASE,
)
_POLAR = re.compile(
    r"(?:^|[\n.,:;]\s*)(?:is|are|was|were|do|does|did|can|could|will|would|has|have|had|should|must)\b"
    r"|\btrue or false\b|\byes or no\b|吗|嗎|是否|ですか|ますか",
    re.IGNORECASE,
)
_NOT_POLAR = re.compile(  # "Is it red or blue?", "Can you tell what it is?"
    r"\b(?:what|which|who|whose|whom|where|when|why|how)\b|\b(?:can|could|would|will) (?:you|i)\b"
    r"|(?<!\byes)(?<!\btrue)\s+or\s+(?!no|false)|什么|什麼|哪|谁|誰|几|幾|多少|怎|如何|何|还是|還是|どこ|どちら|いつ",
    re.IGNORECASE,
)
_OFFERS_OPTIONS = re.compile(r"\b(?:options?|choices?|choose|select)\b|选项|選項", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Asked:
    """A question, its type, the picture's size, and where its clip starts in its video."""

    question: str
    question_type: str
    size: tuple[int, int]
    shift_s: float

    def about(self, pattern: re.Pattern[str]) -> bool:
        return pattern.search(self.question) is not None

    @property
    def about_time(self) -> bool:
        return _ABOUT_TIME.search(f"{self.question} {self.question_type}") is not None

    @property
    def polar(self) -> bool:
        return self.about(_POLAR) and not self.about(_NOT_POLAR)

    @property
    def counts(self) -> bool:
        counted = "count" in self.question_type.lower() or self.about(HOW_MANY)
        return counted and not asked_unit(self.question)

    def span(self, start: float, end: float) -> IntervalAnswer:
        return IntervalAnswer(start=max(0.0, start - self.shift_s), end=end - self.shift_s)


# `read_answer`: the value of a source becomes an answer.


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
    asked = Asked(question, question_type, size, shift_s)
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
        return _read(value, reference, asked)
    except ValidationError as error:
        raise RowError("answer", first_message(error)) from None


def _finite(value: object) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise RowError("not_finite", f"the answer holds {value}")
    if isinstance(value, list | tuple):
        for part in value:
            _finite(part)


def _read(value: Any, reference: Reference, asked: Asked) -> Answer:
    if reference.options or reference.kind == "choice":
        return choice_of(value, reference)
    if isinstance(value, int | float) and (options := options_in(asked.question)):
        return choice_of(str(value), Reference(options=options))
    if isinstance(value, bool) or (asked.polar and isinstance(value, int) and value in (0, 1)):
        return YesNoAnswer(value=bool(value))
    if isinstance(value, int | float):
        _neither(str(value), reference, asked)
        return _number(value, reference.unit, asked)
    if isinstance(value, list | tuple):
        return _listed(value, reference, asked)
    return _text(str(value), reference, asked)


def _said(text: str) -> str:
    """What the reward takes from a reply of these words. Raises RowError."""
    if len(text) > MAX_ANSWER_CHARS and "<answer>" not in text and "</think>" not in text:
        return text.strip()  # a reference for a judge
    try:
        return extract_answer(text).text
    except Unscorable as error:
        raise RowError("answer", f"the answer can't be read ({error.reason})") from None


# Lists: coordinates, a span, steps, or one answer of each annotator.


def _listed(value: Sequence[Any], reference: Reference, asked: Asked) -> Answer:
    numbers = [v for v in value if isinstance(v, int | float) and not isinstance(v, bool)]
    pair = len(value) == len(numbers) == 2
    if pair and asked.about_time:
        return asked.span(numbers[0], numbers[1])
    if asked.about_time and len(value) == 2 and all(isinstance(v, str) for v in value):
        with suppress(Unscorable):
            return asked.span(*parse_interval(f"{value[0]} to {value[1]}"))
    if asked.about_time and len(value) > 1 and all(_is_pair(v) for v in value):
        raise RowError("answer", f"the answer is {len(value)} spans; ask for one a row")
    said = [v["answer"] for v in value if isinstance(v, Mapping) and "answer" in v]
    if said and len(said) == len(value):  # VQA: {"answer": …, "answer_confidence": …}
        return _agreed([str(v).strip() for v in said], reference, asked)
    region = None
    if numbers or any(isinstance(v, list | tuple | dict) for v in value):
        region = region_answer(
            json.dumps(value, default=str), reference, asked.question, asked.size
        )
    if region is not None:
        return region
    if value and all(isinstance(v, list | tuple) for v in value):
        raise RowError("answer", "the answer is a list of lists that hold no coordinates")
    texts = [str(v).strip() for v in value]
    if not texts or not all(texts):
        raise RowError("answer_missing", "the row has no answer")
    if len(texts) == 1:
        return _text(texts[0], reference, asked)
    if reference.kind == ANNOTATORS:
        return _agreed(texts, reference, asked)
    if asked.about(_ABOUT_STEPS) or asked.about(_HOW_TO):
        return StepsAnswer(steps=tuple(texts))
    if len({normalise(text) for text in texts}) < len(texts):
        return _agreed(texts, reference, asked)
    raise RowError(
        "answer",
        f"the answer is a list of {len(texts)}, and the question asks for no steps; if each is an"
        " annotator's answer, say so by --column answers=NAME",
    )


def _is_pair(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 2


def _agreed(texts: Sequence[str], reference: Reference, asked: Asked) -> Answer:
    """The answer that most annotators gave; other texts are its aliases. Raises RowError."""
    votes = Counter(normalise(text) for text in texts)
    (best, most), *others = votes.most_common()
    words = {normalise(text): text for text in reversed(texts)}
    answer = _read(words[best], replace(reference, kind=""), asked)
    if isinstance(answer, TextAnswer):
        more = tuple(words[key] for key, _ in others)
        return TextAnswer(value=answer.value, aliases=(*answer.aliases, *more))
    if others and others[0][1] == most:
        raise RowError("answer", f"the annotators disagree: {' / '.join(words.values())!r:.80}")
    return answer


# Texts: what they say decides, and a text it stays only if it is nothing else.


def _text(text: str, reference: Reference, asked: Asked) -> Answer:
    said = _said(text)
    for read in (
        _option,
        _region,
        _json_list,
        _count,
        _polarity,
        _span,
        _neither,
        _measure,
        _steps,
        _missing,
    ):
        answer = read(said, reference, asked)
        if answer is not None:
            return answer
    if reference.unit:
        raise RowError("answer", f"answer {said!r:.80} is no number of {reference.unit}")
    if count_words(said) <= TEXT_WORDS:
        return TextAnswer(value=said, aliases=reference.aliases)
    tagged = "<answer>" in text or "</think>" in text
    return OpenAnswer(reference=said if tagged else text.strip())


_NOTHING = {"n/a", "#n/a", "<na>", "null", "-", "--", "?", "???"}


def _missing(said: str, reference: Reference, asked: Asked) -> None:
    """Refuse what stands for no answer."""
    if said.lower() in _NOTHING:
        raise RowError("answer_missing", f"the row has no answer but {said!r}")


_LETTERS = re.compile(
    r"[(\[]?[A-H][)\]]?(?:(?:\s*[,;/&+、]\s*|\s+)(?:and\s+)?[(\[]?[A-H][)\]]?)*\.?|[A-H]{2,8}"
)


def _option(said: str, reference: Reference, asked: Asked) -> Answer | None:
    options = options_in(asked.question)
    if options:
        try:
            return choice_of(said, Reference(options=options))
        except RowError:
            if count_words(said) <= TEXT_WORDS or LETTER.match(said):
                raise
            return None
    if _LETTERS.fullmatch(said) and (asked.about(_OFFERS_OPTIONS) or len(said.strip("().[]")) > 1):
        lone = len(re.findall("[A-H]", said)) == 1
        if not lone and not re.search(r"[^A-H]", said):  # "BAG" is a word
            return None
        raise RowError(
            "answer", f"answer {said!r:.80} names options that the question does not list"
        )
    return None


_BARE_NUMBERS = re.compile(r"[0-9.]+(?:[\s,;]+[0-9.]+)+")


_REGION_MARK = re.compile(
    r"</?(?:b?box|points?|quad|poly(?:gon)?|loc|seg|coords?)(?:_?[0-9]{1,4})?>|<[0-9]{1,4}>\s*<[0-9]{1,4}>",
    re.IGNORECASE,
)


def _region(said: str, reference: Reference, asked: Asked) -> Answer | None:
    if not (asked.about_time and "(" not in said and _span(said, reference, asked)):
        if _BARE_NUMBERS.fullmatch(said) and named_grid(asked.question):
            reference = replace(reference, kind="points")
        region = region_answer(said, reference, asked.question, asked.size)
        if region is not None:
            return region
    if reference.kind == "points":
        raise RowError("answer", f"no point in the answer {said!r:.80}")
    if "<" in said and _REGION_MARK.search(said):
        raise RowError("answer", f"answer {said!r:.80} has marks of coordinates that are not read")
    return None


def _count(said: str, reference: Reference, asked: Asked) -> Answer | None:
    if not asked.counts or reference.unit:
        return None
    try:
        value = parse_count(said)
    except Unscorable as error:
        if error.reason.startswith("several") and count_words(said) <= 2 * TEXT_WORDS:
            raise RowError("answer", f"answer {said!r:.80} names several numbers") from None
        if count_words(said) <= TEXT_WORDS:
            raise RowError(
                "answer",
                f"answer {said!r:.80} is no number that is read, and the question asks how many",
            ) from None
        return None
    return _number(value, "", asked)


_FIRST_WORD = re.compile(
    r"[\s(\[]*([^\s,;:.!?，。；：！()\[\]–—-]+)(?:[)\].!。！]*\s*$|[,;:.!，。；：！–—-]|\s+[–—-])"
)


def _polarity(said: str, reference: Reference, asked: Asked) -> Answer | None:
    """Yes or no, where it is all that is said, parted from the rest, or asked for."""
    try:
        value = parse_yes_no(said)
    except Unscorable:
        return None
    first = _FIRST_WORD.match(said)
    if (first and first[1].lower() in YES_NO) or asked.about(_POLAR):
        return YesNoAnswer(value=value)
    return None


def _neither(said: str, reference: Reference, asked: Asked) -> None:
    """Refuse a few words that answer a question for yes or no with neither."""
    if asked.polar and count_words(said) <= TEXT_WORDS:
        raise RowError(
            "answer", f"answer {said!r:.80} is neither yes nor no, and the question asks for one"
        )


_TIME_MARK = re.compile(
    r"[0-9]:[0-9]{2}|[0-9]\s*(?:s|secs?|seconds?|ms|mins?|minutes?|秒|分)(?![a-z])", re.I
)
_RANGE = re.compile(r"[0-9]\s*[a-z]{0,7}\s*(?:-|–|—|~|\bto\b|\band\b|到|至)\s*[0-9]", re.I)
_SINGLE_TIME = re.compile(
    r"(?:at\s+)?(?:[0-9]{1,2}:)?[0-9]{1,3}:[0-9]{2}(?:\.[0-9]+)?\s*(?:s|min|am|pm)?\.?", re.I
)


def _span(said: str, reference: Reference, asked: Asked) -> Answer | None:
    short = _TIME_MARK.search(said) and count_words(said) <= 2 * TEXT_WORDS
    if asked.about_time or short:
        try:
            return asked.span(*parse_interval(said))
        except Unscorable as error:
            if asked.about_time and _RANGE.search(said) and count_words(said) <= 2 * TEXT_WORDS:
                raise RowError(
                    "answer", f"answer {said!r:.80} is no span ({error.reason})"
                ) from None
    if _SINGLE_TIME.fullmatch(said) and not asked.about(_ABOUT_WRITING):
        raise RowError(
            "answer", f"answer {said!r:.80} is one time, and a span has a start and an end"
        )
    return None


_NUMERAL = re.compile(
    r"[-+]?(?:[0-9]+(?:,[0-9]{3})*(?:\.[0-9]+)?|\.[0-9]+)(?:e[-+]?[0-9]+)?|nan|[-+]?inf(?:inity)?",
    re.I,
)
_CANONICAL = re.compile(r"[-+]?(?:0|[1-9][0-9]*|[1-9][0-9]{0,2}(?:,[0-9]{3})+)?(?:\.[0-9]+)?")
# A measure and little else: "about 1.5 m", "5 ft 3 in tall".
_HEDGE = r"(?:(?:it|this|that)(?:'s| is)\s+|about|around|approximately|approx\.?|roughly|nearly|almost|ca\.?|circa|约|大约|[~≈<>≤≥±+-])*"
_MEASURE = re.compile(rf"\s*(?:{_HEDGE}\s*)?[0-9.½¼¾].{{0,40}}", re.IGNORECASE | re.DOTALL)


def _measure(said: str, reference: Reference, asked: Asked) -> Answer | None:
    """A length, an area or a bare number; a quantity that no kind scores is refused."""
    unit, wanted = unit_in(said), asked_unit(asked.question)
    if _NUMERAL.fullmatch(said.rstrip(".")):
        return _numeral(said.rstrip("."), reference, asked)
    if unit and asked.about(_ABOUT_DURATION):
        raise RowError(
            "answer", f"answer {said!r:.80} is no time that can be scored; ask how many seconds"
        )
    short = count_words(said) <= 2 * TEXT_WORDS
    measured = short and (bool(_MEASURE.fullmatch(said)) or asked.about(_ABOUT_LENGTH))
    if wanted or reference.unit or (unit and (measured or asked.about(_ABOUT_LENGTH))):
        known = own_unit(reference.unit or unit)
        target = wanted or (known[0] if known else "m")
        try:
            value = parse_length(said, target, area=asks_area(asked.question))
            return DistanceAnswer.model_validate({"value": value, "unit": target})
        except Unscorable as error:
            if measured:
                raise RowError(
                    "answer", f"answer {said!r:.80} is no length in {target} ({error.reason})"
                ) from None
    if is_other_quantity(said) and not asked.about(_ABOUT_WRITING):
        raise RowError(
            "answer",
            f"answer {said!r:.80} is a quantity that no kind scores; ask how many, or by choice",
        )
    return None


def _numeral(said: str, reference: Reference, asked: Asked) -> Answer | None:
    """A bare number; one that is written as no number is, such as 007, where nothing is counted, is a text."""
    value = float(said.replace(",", ""))
    _finite(value)
    number = asked.counts or reference.unit or asked_unit(asked.question)
    odd = not _CANONICAL.fullmatch(said) or (asked.about(_ABOUT_WRITING) and not value.is_integer())
    if odd and not number:
        return TextAnswer(value=said, aliases=reference.aliases)
    return _number(value, reference.unit, asked)


_LIST_MARK = re.compile(
    r"(?:^|\s)(?:step\s*)?\(?[0-9]{1,2}[.):、]\s*(?![0-9])\S|第[一二三四五六七八九十0-9]{1,2}步|^[-*•]\s",
    re.IGNORECASE | re.MULTILINE,
)
_LIST_ARROW = re.compile(r"[-=]>|[→➔➜➝➞➡⟶⇒⇨]")
_PARTS = re.compile(r"[;|、\n]|\bthen\b|然后", re.IGNORECASE)


def _steps(said: str, reference: Reference, asked: Asked) -> Answer | None:
    """Steps by their marks or arrows, or in any list where the question asks for steps."""
    items = tuple(item.strip(" ;,。") for item in split_list(said))
    if len(items) < 2:
        return None
    planned = asked.about(_ABOUT_STEPS)
    marked = len(_LIST_MARK.findall(said)) > 1 or _LIST_ARROW.search(said)
    parted = _PARTS.search(said) and (planned or asked.about(_HOW_TO))
    brief = planned and all(count_words(item) <= TEXT_WORDS for item in items)
    if marked or parted or brief:
        return StepsAnswer(steps=items)
    if re.search(r"[;|]", said) and count_words(said) <= TEXT_WORDS:
        raise RowError(
            "answer", f"answer {said!r:.80} is a list, and the question asks for no steps"
        )
    return None


def _json_list(said: str, reference: Reference, asked: Asked) -> Answer | None:
    if not (said.startswith("[") and said.endswith("]")):
        return None
    try:
        parsed = parse_json(said)
    except ValueError:
        parsed = written_list(said)
    if not isinstance(parsed, list):
        return None
    _finite(parsed)
    return _listed(parsed, reference, asked)


# Numbers: a count, or a length and its unit.


def _number(value: float, unit: str, asked: Asked) -> Answer:
    """A count or a length, by the unit, the question and its type. Raises RowError."""
    wanted = asked_unit(asked.question)
    if (unit or wanted) and not (asked.counts and float(value).is_integer()):
        known = own_unit(unit) if unit else (wanted or "", 1.0)
        if known is None:
            raise RowError("answer", f"unit {unit!r} is not known; write mm, cm, m, km, in or ft")
        if value <= 0:
            raise RowError(
                "answer", f"a length of {value:g} {unit} can't be scored; it must be above 0"
            )
        own, factor = known
        factor *= METRES[own] / METRES[wanted or own]
        value *= factor**2 if asks_area(asked.question) else factor
        return DistanceAnswer.model_validate({"value": value, "unit": wanted or own})
    if float(value).is_integer() and value >= 0:
        return CountAnswer(value=int(value))
    raise RowError(
        "answer", f"{value:g} is no count, and no unit is given; add a field unit for a length"
    )


# What the source says must earn 1.


def check_own_words(sample: Sample, reference: Reference) -> None:
    """Raise RowError if the source's own words, as a reply, would not earn 1; a judge's kind may."""
    answer = sample.answer
    if answer.kind == "open":
        return
    words = _own_words(reference, answer)
    replies = [words]
    if "<answer>" not in words and "</think>" not in words:
        replies.append(f"<answer>{words}</answer>")
    for reply in replies:
        found = score(sample, reply, RewardConfig())
        if found.task < 1:
            raise RowError(
                "answer",
                f"its own answer {words!r:.80} would earn {found.task:.2g} as {answer.kind}"
                f" ({found.reason or 'in part'}); mend it, or ask for it in other words",
            )


def _own_words(reference: Reference, answer: Answer) -> str:
    """The source's words where they are a reply; a number, an index or a span by its value."""
    value = reference.value
    if isinstance(value, list) and answer.kind in ("points", "box"):
        return json.dumps(value)
    indexed = isinstance(answer, ChoiceAnswer) and reference.index
    own = isinstance(value, str) and reference.kind != "pelican" and not reference.mask
    if not own or indexed or answer.kind == "interval" or reference.unit:
        return as_reply(answer)
    return str(value)


# Multiple choice: the options in their many spellings, and the one that an answer means.

LETTER = re.compile(r"\s*(?:[(\[]([A-Za-z])[)\]]|([A-Z])[).:]|([A-Za-z])\s*$)(?=\s|$)")
_OPTIONS = [  # lettered by capitals, else by small letters
    (
        re.compile(
            rf"(?:^|\n|\s)\(?([{r}])[).:]\s*(.+?)(?=\s*(?:\n|\s)\(?[{r}][).:]\s|\s*$)", re.S
        ),
        s,
    )
    for r, s in (("A-H", "ABCDEFGH"), ("a-h", "abcdefgh"))
]


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
    flat = " ".join(question.split())  # each run of blanks would be read anew
    for pattern, letters in _OPTIONS:
        found = pattern.findall(flat)
        if len(found) > 1 and "".join(letter for letter, _ in found) == letters[: len(found)]:
            return tuple(text.rstrip(";,") for _, text in found)
    return ()


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
    if isinstance(value, int) and not isinstance(value, bool):
        named = [at for at, option in enumerate(options) if option == str(value)]
        if named and named != [value] and reference.kind != "choice":
            raise RowError(
                "answer",
                f"answer {value} is one choice's text and may be another's index; give a letter",
            )
        return _option_at(value, options)
    if not isinstance(value, str):
        raise RowError("answer", f"answer {value!r:.80} is not one of its {len(options)} choices")
    said = _said(value)
    for written in (options, reference.options):
        exact = [i for i, o in enumerate(written) if normalise(o) == normalise(said)]
        if exact:
            return _option_at(exact[0], options)
    if said.isdecimal() and reference.index:
        return _option_at(int(said), options)
    try:
        return ChoiceAnswer(options=options, answer=parse_choice(said, options))
    except Unscorable as error:
        several = error.reason.startswith("several")
        what = "names several of" if several else "is none of"
        raise RowError("answer", f"answer {said!r:.80} {what} its {len(options)} choices") from None


def _option_at(at: int, options: tuple[str, ...]) -> ChoiceAnswer:
    if not 0 <= at < len(options):
        raise RowError("answer", f"answer {at} is outside its {len(options)} choices")
    return ChoiceAnswer(options=options, answer=chr(ord("A") + at))


def with_options(question: str, answer: ChoiceAnswer) -> str:
    """The question with its lettered options, which some sources keep apart."""
    if options_in(question) or all(_stands_in(question, option) for option in answer.options):
        return question
    listed = [f"{chr(ord('A') + i)}. {o}" for i, o in enumerate(bare_options(answer.options))]
    return "\n".join([question, *listed])


def _stands_in(question: str, option: str) -> bool:
    """Whether an option is asked for by its own words: "in" does not stand in "inside", nor 1 in 12."""
    if touches(option):
        return option in question
    return re.search(rf"(?<!\w){re.escape(option)}(?!\w)", question) is not None
