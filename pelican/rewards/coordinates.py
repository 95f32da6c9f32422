"""Points and boxes from the text of an answer, in the notations of several models."""

from __future__ import annotations

import re

from pelican.rewards.base import Unscorable
from pelican.rewards.quantities import number

Point = tuple[float, float]
Box = tuple[float, float, float, float]

_GROUP = re.compile(r"[(\[{]([^()\[\]{}]*)[)\]}]")
_COORDINATE = re.compile(r"[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)")
_FILLER = re.compile(r"[\s,;:=xy\"']*", re.IGNORECASE)
_POINT_TAG = re.compile(
    r"<point\s+x\s*=\s*\"?([^\"\s]+)\"?\s+y\s*=\s*\"?([^\"\s>]+)\"?[^>]*>", re.I
)
_BOX_MARK = re.compile(r"<\|?box|bbox", re.IGNORECASE)


def _coordinates(text: str) -> list[tuple[float, ...]]:
    """Every bracketed group of numbers; the bare numbers if the text is nothing but one group."""
    if "<" in text:
        text = _POINT_TAG.sub(r"(\1, \2)", text)
        text = re.sub(r"<point>", "(", text, flags=re.I)
        text = re.sub(r"</point>", ")", text, flags=re.I)
    groups = []
    for content in [*_GROUP.findall(text)] or [text]:
        numbers = _COORDINATE.findall(content)
        if numbers and _FILLER.fullmatch(_COORDINATE.sub("", content)):
            groups.append(tuple(number(found) for found in numbers))
    if not groups:
        raise Unscorable("unreadable", "no coordinates")
    return groups


def parse_points(text: str, limit: int = 10) -> list[Point]:
    """Points (x, y); a box, or more than `limit` points, is refused."""
    groups = _coordinates(text)
    if _BOX_MARK.search(text) or any(len(group) == 4 for group in groups):
        raise Unscorable("refused", "a box where points are asked")
    if any(len(group) != 2 for group in groups):
        raise Unscorable("unreadable", "a point has two coordinates")
    if len(groups) > limit:
        raise Unscorable("refused", f"{len(groups)} points, at most {limit} are scored")
    return [(group[0], group[1]) for group in groups]


def parse_box(text: str) -> Box:
    """A box (x0, y0, x1, y1): four numbers, or its two corners; corners in any order."""
    groups = list(dict.fromkeys(_coordinates(text)))
    if len(groups) == 2 and all(len(group) == 2 for group in groups):
        groups = [groups[0] + groups[1]]
    if len(groups) > 1:
        raise Unscorable("several answers", f"{len(groups)} groups of coordinates")
    if len(groups[0]) != 4:
        raise Unscorable("unreadable", "a box has four coordinates")
    xa, ya, xb, yb = groups[0]
    box = (min(xa, xb), min(ya, yb), max(xa, xb), max(ya, yb))
    if box[0] == box[2] or box[1] == box[3]:
        raise Unscorable("unreadable", "the box is empty")
    return box
