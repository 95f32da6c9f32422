"""Characters of all scripts: in plain form, where words begin and end, and how many there are."""

from __future__ import annotations

import re
import unicodedata

# Plain characters: what NFKC would spoil ("5½" is no 51/2, "20 m²" no m2) is said by others first.

_FRACTIONS = {
    c: f" {unicodedata.normalize('NFKC', c).replace('⁄', '/')}" for c in "¼½¾⅓⅔⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞"
}
_CIRCLED = {
    chr(ord(first) + n): f" {n + 1}. "
    for first, last in (("①", 20), ("❶", 10), ("➀", 10), ("➊", 10))
    for n in range(last)
}
_PLAIN = str.maketrans(
    {
        **_FRACTIONS,
        **_CIRCLED,
        **{
            "²": "^2",
            "³": "^3",
            "㎡": "m^2",
            "㎠": "cm^2",
            "㎟": "mm^2",
            "㎥": "m^3",
            "㎢": "km^2",
        },
        **{"\u20e3": ". ", "\ufe0f": ""},  # keycaps
        **{"′": "'", "″": '"', "−": "-", "〜": "~", "⁄": "/", "µ": "μ"},
    }
)
_DIGIT = re.compile(r"(?![0-9])\d")  # of other scripts, such as Arabic
_GROUP_SPACE = re.compile("(?<=[0-9])[\u00a0\u2009\u202f](?=[0-9]{3}(?![0-9]))")  # as in 12 000


def plain_characters(text: str) -> str:
    """Letters, digits and marks in their plain width and form."""
    if text.isascii():
        return text
    text = unicodedata.normalize("NFKC", _GROUP_SPACE.sub("", text).translate(_PLAIN))
    return _DIGIT.sub(lambda digit: str(unicodedata.decimal(digit[0])), text)


# Boundaries of words: a letter or a number may touch a character of a script without spaces.

JOINED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7a3"
    "\uf900-\ufaff"
)
NO_WORD_BEFORE = rf"(?<![^\W{JOINED}])"
NO_WORD_AFTER = rf"(?![^\W{JOINED}])"
_JOINED = re.compile(f"[{JOINED}]")


def touches(text: str) -> bool:
    """Whether a word may stand beside `text` without a space on both sides, as in 答案是B."""
    return bool(text and _JOINED.match(text[0]) and _JOINED.match(text[-1]))


# Words. Scripts without spaces have about so many characters to a word.

_CHARACTERS = (
    (re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]"), 1.6),  # Han
    (re.compile("[\u3040-\u30ff]"), 2.5),  # kana
    (re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff]"), 4.5),  # Thai, Lao, Burmese, Khmer
)


def count_words(text: str) -> float:
    """Words of a text: by spaces, and in scripts without them by characters."""
    if text.isascii():
        return len(text.split())
    joined = sum(len(script.findall(text)) / length for script, length in _CHARACTERS)
    spaced = text
    for script, _ in _CHARACTERS:
        spaced = script.sub(" ", spaced)
    return joined + sum(any(c.isalnum() for c in word) for word in spaced.split())
