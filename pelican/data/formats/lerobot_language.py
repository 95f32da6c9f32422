"""LeRobot's language columns: subtasks and plans that last, questions that are asked at one frame.

The fields are those of huggingface/lerobot at 7427f31: src/lerobot/datasets/language.py, and for the
answers' objects src/lerobot/annotations/steerable_pipeline/prompts/vqa.txt.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pelican.base.parse import parse_json
from pelican.data.formats.base import Reference, list_of, text_of
from pelican.data.tables import RowError

PERSISTENT, EVENTS = "language_persistent", "language_events"
GRID = 1000  # per side, on which points and boxes are asked; the columns have them in pixels
POINT_FORM = f"Answer with the point as [x, y], from 0 to {GRID} per side."
BOX_FORM = f"Answer with the box as [x1, y1, x2, y2], from 0 to {GRID} per side."


@dataclass(frozen=True, slots=True)
class Asked:
    """A question about one frame as one camera shows it."""

    camera: str
    time_s: float
    question: str
    reference: Reference


def lasting(rows: Sequence[Mapping[str, Any]], style: str) -> list[tuple[float, str]]:
    """(from when, text) of one style, such as `subtask`, each until the next; in their order.

    Args:
        rows: Of an episode's first frame: every frame has the same.
        style: Of the rows wanted.
    """
    found = [
        (float(row["timestamp"]), text_of(row, "content"))
        for row in rows
        if row.get("style") == style and row.get("timestamp") is not None
    ]
    return sorted(one for one in found if one[1])


def events(
    rows: Sequence[Mapping[str, Any]], time_s: float, sizes: Mapping[str, tuple[int, int]]
) -> Iterator[Asked | RowError]:
    """The questions of one frame: each of the user's, with what the assistant says about its camera.

    Args:
        rows: Of the frame.
        time_s: When it is shown, from the start of its episode.
        sizes: Camera -> (width, height) of its pictures.
    """
    waiting: dict[str, str] = {}
    for row in rows:
        if row.get("style") != "vqa":
            continue
        camera, said = text_of(row, "camera"), text_of(row, "content")
        if row.get("role") == "user":
            waiting[camera] = said
        elif camera in waiting:
            question = waiting.pop(camera)
            try:
                if camera not in sizes:
                    raise RowError(
                        "schema", f"a question is about the camera {camera!r:.80}, which is none"
                    )
                form, reference = _answer(said, sizes[camera])
            except RowError as error:
                yield error
            else:
                yield Asked(camera, time_s, f"{question} {form}".strip(), reference)


def _answer(said: str, size: tuple[int, int]) -> tuple[str, Reference]:
    """The form to ask for, and the answer: an object of a known kind, or a text. Raises RowError."""
    try:
        value = parse_json(said)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        return "", Reference(said)
    if isinstance(value.get("count"), int):
        return "", Reference({"kind": "count", "value": value["count"]}, "pelican")
    if "point" in value:
        return POINT_FORM, Reference([_scaled(value["point"], 2, size)], scale=GRID)
    if "detections" in value:
        boxes = list_of(value["detections"])
        if len(boxes) != 1 or not isinstance(boxes[0], Mapping):
            raise RowError(
                "answer", f"the answer has {len(boxes)} boxes; only one can be asked for"
            )
        if boxes[0].get("bbox_format", "xyxy") != "xyxy":
            raise RowError(
                "answer", f"a box is {boxes[0]['bbox_format']!r:.40}, not by its corners (xyxy)"
            )
        return BOX_FORM, Reference(_scaled(boxes[0].get("bbox"), 4, size), scale=GRID)
    if "relation" in value:
        subject, other = text_of(value, "subject"), text_of(value, "object")
        relation = text_of(value, "relation").replace("_", " ")
        forms = (f"{relation} {other}", f"{relation} the {other}", f"{subject} {relation} {other}")
        return "", Reference(relation, aliases=forms)
    if "value" in value:
        return "", Reference(text_of(value, "value"))
    raise RowError("answer", f"the answer is an object of no known kind: {', '.join(value):.80}")


def _scaled(value: Any, count: int, size: tuple[int, int]) -> list[float]:
    """Pixels as places on the grid. Raises RowError."""
    numbers = [n for n in list_of(value) if isinstance(n, int | float) and not isinstance(n, bool)]
    if len(numbers) != count or len(list_of(value)) != count:
        raise RowError("answer", f"a place is {value!r:.80}, not {count} numbers")
    return [round(n * GRID / size[i % 2], 2) for i, n in enumerate(numbers)]
