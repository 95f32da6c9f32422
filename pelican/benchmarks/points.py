"""Points from a reply, as RoboPoint's and RoboRefer's evaluations read them, and where they lie."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Point = tuple[float, float]
_SPARE = 100_000  # points of one reply beyond four times the frame's pixels

# One way to match each number: with two, a reply of "(11,11,11, …" would take for ever.
_DIGITS = r"\d+(?:\.\d*)?"
_NUMBERS = rf"[-+]?{_DIGITS}"
_VECTOR = re.compile(rf"\(({_NUMBERS}(?:,\s*{_NUMBERS})*?)\)")
_PAIR = rf"\s*({_DIGITS})\s*,\s*({_DIGITS})\s*"
_ROUND, _SQUARE = re.compile(rf"\({_PAIR}\)"), re.compile(rf"\[{_PAIR}\]")


class TooManyPoints(ValueError):
    """The reply names more points than are scored."""


def pixels_of(text: str, width: int, height: int, *, robopoint: bool) -> NDArray[np.int64]:
    """Pixels (x, y), shape [n, 2], of every "(x, y)" and every box "(x0, y0, x1, y1)".

    Two whole numbers are a pixel; with a decimal point both are shares of the width and height. A
    box stands for all its pixels. RoboPoint takes a box for pixels if its first number is whole, and
    cuts it at the frame; RoboRefer takes every box for shares and leaves it whole. Raises
    TooManyPoints.
    """
    limit = 4 * width * height + _SPARE
    found: list[NDArray[np.int64]] = []
    count = 0
    for vector in _VECTOR.findall(text):
        parts = [part.strip() for part in vector.split(",")]
        values = [float(part) for part in parts]
        if len(values) == 2:
            x, y = values
            if any("." in part for part in parts):
                x, y = x * width, y * height
            found.append(np.array([[_whole(x), _whole(y)]]))
        elif len(values) == 4:
            shares = not robopoint or "." in parts[0]
            scale = (width, height) if shares else (1, 1)
            x0, y0, x1, y1 = (_whole(v * scale[i % 2]) for i, v in enumerate(values))
            if robopoint:
                x0, x1 = max(0, x0), min(width, x1)
                y0, y1 = max(0, y0), min(height, y1)
            if max(0, x1 - x0) * max(0, y1 - y0) > limit:
                raise TooManyPoints(f"over {limit} points")
            rows, columns = np.mgrid[y0 : max(y0, y1), x0 : max(x0, x1)]
            found.append(np.stack([columns.ravel(), rows.ravel()], axis=1).astype(np.int64))
        count += len(found[-1]) if len(values) in (2, 4) else 0
        if count > limit:
            raise TooManyPoints(f"over {limit} points")
    return np.concatenate(found) if found else np.empty((0, 2), np.int64)


def _whole(value: float) -> int:
    return int(max(-1e9, min(1e9, value)))


def share_inside(points: NDArray[np.int64], mask: NDArray[np.float64]) -> float:
    """Mean of the mask's values (0 … 1) at the points; outside the frame, and without points, 0."""
    if not len(points):
        return 0.0
    height, width = mask.shape
    x, y = points[:, 0], points[:, 1]
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    return float(mask[y[inside], x[inside]].sum() / len(points))


def first_pair(text: str) -> Point | None:
    """The first "(x, y)", else the first "[x, y]", else the first of a list (RoboSpatial-Home).

    Numbers without a sign and with a digit before the point; others are found only in a list that
    is Python's own notation.
    """
    found = _ROUND.search(text) or _SQUARE.search(text)
    if found:
        return float(found[1]), float(found[2])
    begin = text.find("[")
    end = text.find("]", begin)
    if begin < 0 or not 0 < end - begin < 2000:
        return None
    try:
        values = ast.literal_eval(f"[{text[begin + 1 : end].strip().removesuffix(',')}]")
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    pair = values if len(values) == 2 and all(_number(v) for v in values) else values[:1]
    pair = pair[0] if len(pair) == 1 else pair
    if isinstance(pair, list | tuple) and len(pair) == 2 and all(_number(v) for v in pair):
        return float(pair[0]), float(pair[1])
    return None


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def polygon_of(text: str) -> list[Point] | None:
    """A polygon of at least three corners in Python's notation; None if it is none."""
    try:
        value = ast.literal_eval(text)
        corners = [(float(x), float(y)) for x, y in value]
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
    return corners if isinstance(value, list) and len(corners) >= 3 else None


def in_polygon(point: Point, corners: Sequence[Point]) -> bool:
    """By the even-odd rule: a ray to the right crosses the outline an odd number of times."""
    x, y = point
    inside = False
    for (xa, ya), (xb, yb) in zip(corners, [corners[-1], *corners[:-1]], strict=True):
        if (ya > y) != (yb > y) and x < (xb - xa) * (y - ya) / (yb - ya) + xa:
            inside = not inside
    return inside
