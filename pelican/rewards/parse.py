"""From the text of an answer to its value: choices, numbers, spans, lists."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from pelican.rewards.base import Unscorable
from pelican.rewards.dress import last_boxed, undress

# The answer inside a completion, without its thinking, tags, Markdown and LaTeX.

MAX_ANSWER_CHARS = 8000

_ANSWER = re.compile(r"<answer>(.*?)(?:</answer>|\Z)", re.DOTALL)
_STATEMENT = re.compile(r"\banswer\s*(?:is\b|:|=)\s*:?", re.IGNORECASE)
_LEAD = re.compile(
    r"\s*(?:the\s+|my\s+)?(?:final\s+|correct\s+|best\s+|right\s+)?"
    r"(?:answer|order|sequence|plan|steps)\s*(?:is\b|are\b|:|=)\s*:?",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Extracted:
    """The answer's text; `tagged` if the completion marked it by `<answer>` or `\\boxed`."""

    text: str
    tagged: bool


def extract_answer(completion: str) -> Extracted:
    """What follows `</think>`; there inside `<answer>`, else the last `\\boxed{}`, else all of it.

    An `<answer>` that was never closed runs to the end. A thought that never ended is no answer.
    """
    rest = completion.rpartition("</think>")[2]
    blocks = [block.strip() for block in _ANSWER.findall(rest)]
    if blocks:
        if len({normalise(block) for block in blocks}) > 1:
            raise Unscorable("several answers", f"{len(blocks)} <answer> blocks")
        return _checked(_clean(blocks[0]), tagged=True)
    rest = rest.partition("<think>")[0]
    boxed = last_boxed(rest)
    if boxed is not None:
        return _checked(_clean(boxed), tagged=True)
    text = _clean(rest)
    statements = list(_STATEMENT.finditer(text))
    if statements:  # prose that ends in "… the answer is B."
        text = text[statements[-1].end() :].strip()
    return _checked(text, tagged=False)


def _checked(text: str, *, tagged: bool) -> Extracted:
    if not text:
        raise Unscorable("no answer")
    if len(text) > MAX_ANSWER_CHARS:
        raise Unscorable("refused", f"the answer is longer than {MAX_ANSWER_CHARS} characters")
    return Extracted(text, tagged)


def _clean(text: str) -> str:
    """Drop dress and "The answer is", until nothing changes."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    text = undress(text)
    while lead := _LEAD.match(text):
        text = undress(text[lead.end() :])
    return text


# Choices, and yes or no.

_LONE_LETTER = re.compile(r"[(\[]?\s*([A-Za-z])\s*[)\]]?\s*[.:,]?")
_LABEL = re.compile(r"(?<![\w'’])[(\[]?([a-z])[)\].:](?!\w)")
_MENTION = re.compile(r"(?<![\w'’])[(\[]?([A-Z])[)\]]?(?![\w'’])")
_PROSE = re.compile(
    r"\s+(?!(?:or|and|then|is|not|nor|but|also|plus|vs|versus|to|maybe|perhaps|possibly|either|if)\b)[a-z]{2}"
)
_LONE = re.compile(r"(?<![\w'’])([a-z])(?![\w'’])")
_YES_NO = re.compile(r"\b(yes|no)\b", re.IGNORECASE)


def parse_choice(text: str, options: Sequence[str]) -> str:
    """The letter of the one option that is named: "B", "(b)", "B. text" or the option's text."""
    lone = _LONE_LETTER.fullmatch(text)
    if lone:
        letter = lone[1].upper()
        if ord(letter) - ord("A") >= len(options):
            raise Unscorable("unreadable", f"letter {letter} is outside {len(options)} options")
        return letter
    texts = [normalise(option) for option in options]
    hits = [i for i, option in enumerate(texts) if option == normalise(text)]
    if len(hits) == 1:
        return chr(ord("A") + hits[0])
    letters = set()
    spans = []
    for mention in _mentions(text):
        letter = mention[1].upper()
        if ord(letter) - ord("A") < len(options):
            letters.add(letter)
            spans.append(mention.span())
    if not letters:
        raise Unscorable("unreadable", "no option is named")
    rest = text
    for start, end in sorted(spans, reverse=True):
        rest = rest[:start] + " " + rest[end:]
    mentioned = letters | _options_in(rest, texts)
    if len(mentioned) > 1:
        raise Unscorable("several answers", ", ".join(sorted(mentioned)))
    return letters.pop()


def _mentions(text: str) -> Iterator[re.Match[str]]:
    """Letters that may name an option: capitals, and in "b) red" small ones.

    "A" and "I" before a word are English where a sentence begins ("B. A cup is there"); at the
    start of the text, before another letter, they are taken for hedging ("A maybe B").
    """
    small = _LABEL.match(text) is not None
    found = [*_MENTION.finditer(text), *(_LONE.finditer(text) if small else ())]
    for mention in found:
        bare = mention[0] == mention[1] and mention[1] in "AIai"
        if bare and _PROSE.match(text, mention.end()):
            before = text[: mention.start()].rstrip()
            if mention[1].islower() or before.endswith((".", "!", "?")):
                continue
            if len(found) == 1:
                continue
        yield mention


def _options_in(text: str, options: Sequence[str]) -> set[str]:
    """Letters of the options whose text stands in `text`; the longest is looked for first."""
    found = set()
    padded = f" {normalise(text)} "
    for index in sorted(range(len(options)), key=lambda i: -len(options[i])):
        needle = f" {options[index]} "
        if needle in padded:
            padded = padded.replace(needle, "  ")
            found.add(chr(ord("A") + index))
    return found


def parse_yes_no(text: str) -> bool:
    """Yes or no, by the first word; both words in one answer are refused."""
    words = {word.lower() for word in _YES_NO.findall(text)}
    if len(words) > 1:
        raise Unscorable("several answers", "yes and no")
    first = _YES_NO.match(text.lstrip(" (["))
    if not first:
        raise Unscorable("unreadable", "neither yes nor no")
    return first[1].lower() == "yes"


# Lists, such as steps.

MAX_ITEMS = 100

_MARK = re.compile(r"\s*(?:(?:step\s*)?\(?[0-9]{1,3}[.):](?![0-9])|step\s+[0-9]+\b|[-*•])\s*", re.I)
_INLINE_MARK = re.compile(r"(?:^|(?<=[\s;,]))(?:step\s*)?\(?[0-9]{1,3}[.):]\s+", re.IGNORECASE)
_ARROW = re.compile(r"\s*(?:-+>|=+>|→|➔|⇒|>)\s*")
_JOINER = re.compile(r"(?:and\s+then|and|then)\s+", re.IGNORECASE)


def parse_list(text: str) -> list[str]:
    """Items, normalised: lines, "1. a 2. b", "a; b", "a > b" or "a, b", in this order."""
    if text[:1] == "[" and text[-1:] == "]":
        text = text[1:-1]
    lines = [line for line in text.splitlines() if line.strip()]
    marked = [line for line in lines if _MARK.match(line)]
    if len(lines) > 1:
        items = marked or lines
    elif len(_INLINE_MARK.findall(text)) > 1:
        items = _INLINE_MARK.split(text)[1:]
    elif ";" in text:
        items = text.split(";")
    elif _ARROW.search(text):
        items = _ARROW.split(text)
    else:
        items = text.split(",")
    keys = [item_key(_MARK.sub("", item, count=1)) for item in items if item.strip(" ;,.")]
    keys = [key for key in keys if key]
    if not keys:
        raise Unscorable("unreadable", "no list")
    if len(keys) > MAX_ITEMS:
        raise Unscorable("refused", f"{len(keys)} items, at most {MAX_ITEMS} are scored")
    return keys


def item_key(item: str) -> str:
    """An item as it is compared: normalised, without "and" or "then" at its start."""
    return normalise(
        _JOINER.sub("", item.strip(), count=1) if _JOINER.match(item.strip()) else item
    )


# Counts and lengths, in digits or words.

ONES = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
    "twenty",
]
_WORDS = {word: value for value, word in enumerate(ONES)} | {
    word: 10 * value
    for value, word in enumerate(["thirty", "forty", "fifty", "sixty", "seventy"], 3)
}
_NUMBER_WORD = re.compile(
    rf"\b({'|'.join(sorted(_WORDS, key=len, reverse=True))})\b", re.IGNORECASE
)
_DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+"
_NUMBER = re.compile(rf"(?<![\w.])([-+]?(?:{_DIGITS})(?:e[-+]?[0-9]{{1,3}})?)", re.IGNORECASE)


def parse_count(text: str) -> float:
    """The one number of the text, in digits or as a word up to seventy."""
    text = text.casefold()  # not lower(): the pattern takes "sİx" for "six", and lower() does not
    found = {number(token) for token in _NUMBER.findall(text)}
    found |= {float(_WORDS[word]) for word in _NUMBER_WORD.findall(text)}
    if not found:
        raise Unscorable("unreadable", "no number")
    if len(found) > 1:
        raise Unscorable("several answers", f"{len(found)} numbers")
    return found.pop()


def number(token: str) -> float:
    """The value of a numeral. Raises Unscorable if it is infinite."""
    value = float(token.replace(",", ""))
    if not math.isfinite(value):
        raise Unscorable("unreadable", "a number without end")
    return value


METRES = {"mm": 0.001, "cm": 0.01, "m": 1.0, "in": 0.0254, "ft": 0.3048}
_UNIT_WORDS = {
    "km": 1000.0,
    "yd": 0.9144,
    "yard": 0.9144,
    "yards": 0.9144,
    "dm": 0.1,
    "inch": METRES["in"],
    "inches": METRES["in"],
    '"': METRES["in"],
    "″": METRES["in"],
    "foot": METRES["ft"],
    "feet": METRES["ft"],
    "'": METRES["ft"],
    "′": METRES["ft"],
    **{
        f"{prefix}met{ending}": factor
        for prefix, factor in {
            "milli": 0.001,
            "centi": 0.01,
            "deci": 0.1,
            "": 1.0,
            "kilo": 1e3,
        }.items()
        for ending in ("er", "ers", "re", "res")
    },
    **METRES,
}
_NAMES = "|".join(
    sorted((u for u in _UNIT_WORDS if u.isalpha() and u != "in"), key=len, reverse=True)
)
# "30 in" is inches, "30 in total" is not.
_LENGTH = re.compile(
    rf"(?<![\w.])([-+]?(?:{_DIGITS})(?:e[-+]?[0-9]{{1,3}})?)"
    rf"\s*-?(?:({_NAMES})(?![a-z])|(in)(?![a-z])(?!\s+[a-z])|([\"'″′]))?",
    re.IGNORECASE,
)
_NOT_A_LENGTH = re.compile(
    r"\s*(?:kg|g|grams?|kilograms?|s|secs?|seconds?|ms|mins?|minutes?|hours?|degrees?|deg|px|pixels?"
    r"|percent)\b|\s*[°%]",
    re.IGNORECASE,
)
_SAME_LENGTH = 0.02  # "12 in (30 cm)" is one answer, rounded


def parse_length(text: str, unit: str) -> float:
    """The one length of the text in `unit`; a number without unit is in `unit`.

    "5 ft 3 in" is a sum; "30 cm (0.3 m)" is one length.
    """
    text = text.casefold()
    if not any(c.isdigit() for c in text):
        text = _NUMBER_WORD.sub(lambda match: str(_WORDS[match[1]]), text)
    found: list[float] = []
    last_end, last_unit = -1, 0.0
    for match in _LENGTH.finditer(text):
        name = next((group for group in match.groups()[1:] if group), "")
        if not name and _NOT_A_LENGTH.match(text, match.end()):
            raise Unscorable("unreadable", "not a length")
        factor = _UNIT_WORDS[name or unit]
        value = number(match[1]) * factor
        joined = found and name and text[last_end : match.start()].strip().lower() in ("", "and")
        if joined and last_unit > factor and 0 <= value < last_unit:
            found[-1] += value
        else:
            found.append(value)
        last_end, last_unit = match.end(), factor if name else 0.0
    if not found:
        raise Unscorable("unreadable", "no number")
    if any(abs(value - found[0]) > _SAME_LENGTH * abs(found[0]) for value in found):
        raise Unscorable("several answers", f"{len(found)} lengths")
    return found[0] / METRES[unit]


# Spans of time.

_TIME = re.compile(
    r"(?:([0-9]+):)?([0-9]+):([0-9]{2}(?:\.[0-9]+)?)(?!\w)"
    r"|([0-9]+(?:\.[0-9]+)?|\.[0-9]+)\s*"
    r"(ms|milliseconds?|s|secs?|seconds?|m|mins?|minutes?)?(?!\w)",
    re.IGNORECASE,
)
_NEGATIVE = re.compile(r"(?:^|[\[(,]|\b(?:from|between|to|and)\s)\s*-\s*\.?[0-9]", re.IGNORECASE)


def parse_interval(text: str) -> tuple[float, float]:
    """Start and end in seconds: "8 to 16 s", "[8, 16]", "0:08 - 0:16", "1 to 2 min"."""
    if _NEGATIVE.search(text):
        raise Unscorable("unreadable", "a time below 0")
    times: list[tuple[float, float | None]] = []
    for hours, minutes, seconds, amount, unit in _TIME.findall(text):
        if minutes:
            value = 3600 * number(hours or "0") + 60 * number(minutes) + float(seconds)
            times.append((value, 1.0))
        else:
            times.append((number(amount), _time_factor(unit.lower())))
    if len(times) != 2:
        raise Unscorable(
            "several answers" if len(times) > 2 else "unreadable", f"{len(times)} times"
        )
    last = times[1][1] or 1.0
    start, end = times[0][0] * (times[0][1] or last), times[1][0] * last
    if not start < end:
        raise Unscorable("unreadable", "the span ends before it starts")
    return start, end


def _time_factor(unit: str) -> float | None:
    """Seconds in a unit; None if none is given."""
    if not unit:
        return None
    if unit.startswith(("ms", "milli")):
        return 0.001
    return 1.0 if unit.startswith("s") else 60.0


# `normalise`: the form in which texts are compared.

_DROPPED = re.compile(r"_|(?<![0-9])\.|\.(?![0-9])|-(?![0-9])|(?<=\w)-|[^\w\s.%°+-]")
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")


@lru_cache(maxsize=1 << 16)
def normalise(text: str) -> str:
    """Case, spaces, punctuation and articles aside; what is nothing else is kept as it is."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    plain = _DROPPED.sub(" ", folded)
    bare = " ".join(_ARTICLES.sub(" ", plain).split())
    return bare or " ".join(plain.split()) or " ".join(folded.split())
