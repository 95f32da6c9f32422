"""Marks in a text that stand for something else of the row: filled, or the row is left out."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from pelican.data.formats.base import Objects, Record
from pelican.data.importing.regions import grid_sentence, named_grid
from pelican.data.tables import RowError
from pelican.records import Turn

GRID = 1000  # boxes are filled in on it, where the question names no other
_FILLED = re.compile(r"<(ref-object|bbox)>")
# What no policy can read or hear. With a closing tag behind it, it is a notation, not a mark.
_MARK = re.compile(
    r"<(audio|speech|sound|ref-object|ref|bbox|box|object|obj|region|mask|seg|points?|depth"
    r"|point[-_]?cloud|pcd|mesh|frames?|vid|im_patch|image[-_]?(?:here|placeholder|token)"
    r"|start-image|cot-process)(?:[ _-]?\d{1,3})?>(?!.{0,2000}</\1>)|<img>",
    re.IGNORECASE | re.DOTALL,
)
_MEDIA = re.compile(r"<(?:image|video)>", re.IGNORECASE)  # in an answer: there is no such kind
# Shares of the picture: what a unit's numbers are divided by, width and height where None.
_UNITS: dict[str, float | None] = {"real": None, "norm1": 1.0, "norm100": 100.0, "norm1000": 1000.0}


def fill_marks(record: Record, sizes: Sequence[tuple[int, int]]) -> Record:
    """The record with `<ref-object>` and `<bbox>` filled from its objects, in their order.

    Args:
        record: Its turns and its answer may hold marks.
        sizes: (width, height) of its pictures as they are seen, before they were scaled.

    Raises:
        RowError: A mark that nothing fills is left, or several boxes are the answer.
    """
    value = record.reference.value
    said = [turn.text for turn in record.turns] + [value if isinstance(value, str) else ""]
    if not any("<" in text for text in said):
        return record
    boxes = said[-1].count("<bbox>")
    if boxes:
        if boxes > 1 and any(len(box) != 2 for box in record.objects.boxes):
            raise RowError(
                "answer",
                f"the answer holds {boxes} boxes, and no kind of answer holds several; ask for one a row",
            )
        if record.objects.unit != "none" and not named_grid(said[-2]):
            said[-2] = f"{said[-2].rstrip()}\n{grid_sentence(GRID)}"
    grid = (named_grid(said[-2]) if len(said) > 1 else None) or GRID
    names, spelt = iter(record.objects.names), _spelt(record.objects, sizes, grid)

    def fill(match: re.Match[str]) -> str:
        text = next(names if match[1] == "ref-object" else spelt, None)
        if text is None:
            raise RowError(
                "media_marks",
                f"a text holds {match[0]}, and `objects` of the row has nothing more for it",
            )
        return text

    filled = [_FILLED.sub(fill, text) for text in said]
    for text in filled:
        if mark := _MARK.search(text):
            raise RowError(
                "media_marks",
                f"a text holds {mark[0]}, which stands for something that the row does not say; write"
                " it out",
            )
    if mark := _MEDIA.search(filled[-1]):
        raise RowError("media_marks", f"the answer holds {mark[0]}, and no answer is a picture")
    if filled == said and not boxes:
        return record
    turns = tuple(
        turn if turn.text == text else Turn(role=turn.role, text=text)
        for turn, text in zip(record.turns, filled, strict=False)
    )
    answer = filled[-1] if isinstance(value, str) else value
    return replace(record, turns=turns, reference=replace(record.reference, value=answer))


def _spelt(objects: Objects, sizes: Sequence[tuple[int, int]], grid: int) -> Iterator[str]:
    """The boxes on a grid of `grid` per side, as rewards read them."""
    for number, box in enumerate(objects.boxes):
        image = objects.images[number] if number < len(objects.images) else 0
        if not 0 <= image < len(sizes) or len(box) not in (2, 4):
            raise RowError(
                "answer",
                f"box {number + 1} has {len(box)} numbers, of image {image} of {len(sizes)}",
            )
        if objects.unit == "none":
            numbers = [f"{value:g}" for value in box]
        elif objects.unit in _UNITS:
            of = _UNITS[objects.unit]
            sides = [of or side for side in sizes[image]] * 2
            numbers = [_on(value / side, grid) for value, side in zip(box, sides, strict=False)]
        else:
            raise RowError(
                "answer", f"bbox_type {objects.unit!r:.40} is none of none, {', '.join(_UNITS)}"
            )
        yield f"({', '.join(numbers)})" if len(box) == 2 else f"[{', '.join(numbers)}]"


def _on(share: float, grid: int) -> str:
    """A share of a side on the grid: whole numbers, but for shares themselves."""
    return f"{share:.3f}" if grid == 1 else str(round(share * grid))
