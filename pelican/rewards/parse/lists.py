"""Items in an order."""

from __future__ import annotations

import re

from pelican.rewards.base import Unscorable
from pelican.rewards.parse.text import normalise

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
