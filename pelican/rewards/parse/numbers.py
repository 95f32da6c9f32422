"""Counts and lengths, in digits or words."""

from __future__ import annotations

import math
import re

from pelican.rewards.base import Unscorable

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
