"""Points and boxes from the text of an answer, in the notations of several models.

Reward, import and benchmarks read by the tables below. What a notation leaves open, such as the grid
of a bare "[30, 40]", the question decides.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pelican.records import Scale, sides_of
from pelican.rewards.base import Unscorable
from pelican.rewards.quantities import number

Point = tuple[float, float]
Box = tuple[float, float, float, float]

MAX_POINTS = 10  # of a reply; more would be a guess at everything


class Region(NamedTuple):
    """A point (x, y) or a box (x0, y0, x1, y1); `grid` per side as its notation says, if it does.

    Other lengths than two and four are what a reply holds that is neither.
    """

    numbers: tuple[float, ...]
    grid: int | None = None


# The notations.

PER_CENT, PER_MILLE = 100, 1000


@dataclass(frozen=True, slots=True)
class Notation:
    """`grid` per side (None: as the question says); `box` where two corners are one box."""

    grid: int | None = None
    y_first: bool = False
    box: bool = False


# Keys of JSON and of Python's dictionaries. Gemini and Gemini Robotics-ER write y first.
KEYS: dict[str, Notation] = {
    "point": Notation(PER_MILLE, y_first=True),
    "box_2d": Notation(PER_MILLE, y_first=True, box=True),
    # Qwen2.5-VL writes pixels, Qwen3-VL thousandths, both by these keys.
    **dict.fromkeys(("point_2d", "points_2d", "points"), Notation()),
    **dict.fromkeys(("bbox_2d", "bbox", "box", "bounding_box"), Notation(box=True)),
}
# Marks around coordinates. Qwen-VL, InternVL: <box>; Qwen2-VL: <|box_start|>.
MARKS: dict[str, Notation] = {
    "box": Notation(PER_MILLE, box=True),
    "bbox": Notation(box=True),
    "point": Notation(),
}
# Keys of one object that name a point or a box together, and how its numbers follow from them.
_CORNERS: dict[tuple[str, ...], bool] = {  # whether the last two are width and height
    ("x1", "y1", "x2", "y2"): False,
    ("x0", "y0", "x1", "y1"): False,
    ("xmin", "ymin", "xmax", "ymax"): False,
    ("left", "top", "right", "bottom"): False,
    ("x", "y", "w", "h"): True,
    ("x", "y", "width", "height"): True,
    ("left", "top", "width", "height"): True,
    ("x", "y"): False,
}

_NUMERAL = r"[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:e[-+]?[0-9]{1,3})?"
_COORDINATE = re.compile(rf"(?<![a-z0-9_])(?:{_NUMERAL}|nan\b|inf(?:inity)?\b)", re.I)
_PLAIN = re.compile(r"[0-9., +-]{1,200}")
_FILLER = re.compile(r"[\s,;:=xy\"'%]*", re.IGNORECASE)
_GROUP = re.compile(r"[(\[{]([^()\[\]{}]*)[)\]}](\s?%)?")
_QUOTED = "|".join(sorted(KEYS, key=len, reverse=True))
_BARE = "|".join(name for name in KEYS if name.endswith("_2d"))
_KEYED = re.compile(
    rf"(?:([\"'])(?P<quoted>{_QUOTED})\1|(?<![\w\"'])(?P<bare>{_BARE}))\s?[:=]\s{{0,9}}"
    r"(?P<numbers>[\[(][\s\d.,+\-e%\[\]()]*)",
    re.IGNORECASE,
)
_NAMED = re.compile(
    rf"(?<![a-z0-9])([a-z]{{1,6}}_?[a-z]{{0,3}}[0-2]?)[\"']?\s?[:=]\s?[\"']?({_NUMERAL})", re.I
)
_MARK = re.compile(r"<\|?(box|bbox|point)(?:_start)?\|?>([^<]*)", re.IGNORECASE)
_LABEL = re.compile(r"<ref>[^<]*</ref>|<\|object_ref_start\|>[^<]*<\|object_ref_end\|>", re.I)
_BOX_WORD = re.compile(r"bbox", re.IGNORECASE)

# Molmo: <point x="12.5" y="40.0" alt="…">, <points x1= y1= x2= …> in percent; its later forms p="125,400",
# 1="125,400" and coords="1 1 125 400" (an image, then number, x and y of each point) in thousandths.
_POINT_TAG = re.compile(r"<points?(\s[^<>]*)>(?:[^<]*</points?>)?", re.IGNORECASE)
_XY = re.compile(rf"\b([xy])([0-9]{{0,3}})\s?=\s?[\"']?\s?({_NUMERAL})", re.IGNORECASE)
_PER_MILLE = re.compile(r"\b(?:p|[0-9]{1,3})\s?=\s?[\"']?\s?([0-9]{3})\s?,\s?([0-9]{3})\b")
_COORDS = re.compile(r"\bcoords\s?=\s?[\"']([^\"']*)")


def find_regions(text: str, *, bare: bool = True) -> list[Region]:
    """Every point and box of a text: by tags and marks, else by keys, else by brackets.

    What stands beside tags or keys, such as labels, is no region then. With `bare`, a text that is
    nothing but numbers is one region. Raises Unscorable if a number is infinite.
    """
    found: list[Region] = []
    if "<" in text:
        text = _LABEL.sub(" ", text)
        found = tagged_points(text)
        for mark, content in _MARK.findall(text):
            found += _of_mark(mark.lower(), content)
    found = found or keyed_regions(text)
    if not found:
        whole = bare or _is_named(text)
        groups = _GROUP.findall(text) or ([(text, "")] if whole else [])
        found = [region for content, percent in groups for region in _of_group(content + percent)]
    return found


def _is_named(text: str) -> bool:
    """Whether a text is coordinates by name and nothing else: "x: 420, y: 310"."""
    named = ":" in text or "=" in text
    return named and _FILLER.fullmatch(_NAMED.sub("", text)) is not None


def tagged_points(text: str) -> list[Region]:
    """The points of Molmo's tags."""
    return [region for tag in _POINT_TAG.finditer(text) for region in _of_tag(tag[1])]


def keyed_regions(text: str) -> list[Region]:
    """What stands in brackets after one of KEYS."""
    if ":" not in text and "=" not in text:
        return []
    return [region for match in _KEYED.finditer(text) for region in _of_key(match)]


def _of_tag(attributes: str) -> Iterator[Region]:
    axes: dict[str, dict[str, float]] = {"x": {}, "y": {}}
    for axis, index, value in _XY.findall(attributes):
        axes[axis.lower()][index] = number(value)
    for index, x in axes["x"].items():
        if index in axes["y"]:
            yield Region((x, axes["y"][index]), PER_CENT)
    for x, y in _PER_MILLE.findall(attributes):
        yield Region((float(x), float(y)), PER_MILLE)
    for frames in _COORDS.findall(attributes):
        for frame in re.split(r"[;\t]", frames):
            values = [number(found) for found in _COORDINATE.findall(frame)]
            first = len(values) % 3  # the number of the image may stand before the points
            for place in range(first, len(values) - 2, 3):
                yield Region((values[place + 1], values[place + 2]), PER_MILLE)


def _of_mark(mark: str, content: str) -> list[Region]:
    return _noted(MARKS[mark], content) or _noted(MARKS[mark], f"({content})")


def _of_key(match: re.Match[str]) -> list[Region]:
    return _noted(KEYS[(match["quoted"] or match["bare"]).lower()], match["numbers"])


def _noted(notation: Notation, text: str) -> list[Region]:
    """The regions of a text that stands in a notation."""
    found = [
        Region(_x_first(numbers) if notation.y_first else numbers, grid or notation.grid)
        for content, percent in _GROUP.findall(text)
        for numbers, grid in _of_group(content + percent)
    ]
    if notation.box and len(found) == 2 and all(len(region.numbers) == 2 for region in found):
        found = [Region(found[0].numbers + found[1].numbers, found[0].grid)]
    return found


def _x_first(numbers: tuple[float, ...]) -> tuple[float, ...]:
    if len(numbers) % 2:
        return numbers  # neither points nor a box
    return tuple(numbers[place ^ 1] for place in range(len(numbers)))


def _of_group(content: str) -> list[Region]:
    """The one region of a text that holds nothing but coordinates, or their names; else none."""
    if _PLAIN.fullmatch(content):  # most are: numbers between commas
        try:
            return [Region(tuple(map(float, content.split(","))))]
        except ValueError:
            pass
    grid = PER_CENT if "%" in content else None
    if ":" in content or "=" in content:
        named = {name.lower().replace("_", ""): value for name, value in _NAMED.findall(content)}
        for names, sized in _CORNERS.items():
            if all(name in named for name in names):
                a = [number(named[name]) for name in names]
                corners = (a[0], a[1], a[0] + a[2], a[1] + a[3]) if sized else tuple(a)
                return [Region(corners, grid)]
    numbers = _COORDINATE.findall(content)
    if not numbers or not _FILLER.fullmatch(_COORDINATE.sub("", content)):
        return []
    return [Region(tuple(number(found) for found in numbers), grid)]


# From regions to the answer that was asked for, on the grid of the question.


def parse_points(text: str, scale: Scale) -> list[Point]:
    """Points (x, y) on the grid of `scale`; a box, or more than MAX_POINTS, is refused."""
    groups = _read(text, scale)
    if _BOX_WORD.search(text) or any(len(group) == 4 for group in groups):
        raise Unscorable("refused", "a box where points are asked")
    if any(len(group) != 2 for group in groups):
        raise Unscorable("unreadable", "a point has two coordinates")
    if len(groups) > MAX_POINTS:
        raise Unscorable("refused", f"{len(groups)} points, at most {MAX_POINTS} are scored")
    return [(group[0], group[1]) for group in groups]


def parse_box(text: str, scale: Scale) -> Box:
    """A box (x0, y0, x1, y1) on the grid of `scale`: four numbers or two corners, in any order."""
    groups = list(dict.fromkeys(_read(text, scale)))
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


def _read(text: str, scale: Scale) -> list[tuple[float, ...]]:
    regions = find_regions(text)
    if not regions:
        raise Unscorable("unreadable", "no coordinates")
    return placed(regions, scale)


def placed(regions: Sequence[Region], scale: Scale) -> list[tuple[float, ...]]:
    """The numbers of regions on the grid of `scale`.

    A policy that was asked for one grid may write in a notation that has another. Of the two the
    smaller counts that holds every number: Molmo's 60 of 100 is no 60 of 1000, and 350 between
    marks that mean 0 to 1000 is none of 100.
    """
    if all(region.grid is None for region in regions):
        return [region.numbers for region in regions]
    sides = sides_of(scale)
    asked = max(sides)
    top = {
        grid: max(max(region.numbers) for region in regions if region.grid == grid)
        for grid in {region.grid for region in regions if region.grid}
    }
    own = {grid for grid in top if (top[grid] <= grid < asked) or grid > asked < top[grid]}
    return [
        tuple(v * sides[i % 2] / region.grid for i, v in enumerate(region.numbers))
        if region.grid in own
        else region.numbers
        for region in regions
    ]
