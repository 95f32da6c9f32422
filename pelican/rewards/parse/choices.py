"""Which option, or yes or no."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from pelican.rewards.base import Unscorable
from pelican.rewards.parse.text import normalise

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
    named = letters | _options_in(rest, texts)
    if len(named) > 1:
        raise Unscorable("several answers", ", ".join(sorted(named)))
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
