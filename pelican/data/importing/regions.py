"""Points, boxes and masks: which of them an answer is, and on which grid (such as 0 to 1000)."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageDraw

from pelican.data.formats.base import Reference
from pelican.data.images import FORMATS, decoding
from pelican.data.tables import RowError
from pelican.errors import UserInputError
from pelican.records import Answer, BoxAnswer, Mask, PointsAnswer, Scale, sides_of
from pelican.rewards.base import Unscorable
from pelican.rewards.coordinates import (
    MAX_POINTS,
    PER_CENT,
    PER_MILLE,
    Region,
    find_regions,
    parse_box,
    parse_points,
    placed,
)
from pelican.rewards.masks import encode_mask

# The grid: a mark or a key of the answer tells it, or the question, or the option --notation.

_GRID = re.compile(
    r"(?<![\d.a-z])(?:0(?:\.0+)?|zero)\s*(?:to|-|–|—|~|～|and|through|,|到|至)\s*(1000|999|100|99|1)(?:\.0+)?"
    r"(?![\d.]*\d)",
    re.IGNORECASE,
)
_GRID_NAMES = (
    (PER_MILLE, re.compile(r"\b1000\s*[x×]\s*1000\b|\bthousandths?\b|\bper\s?mille?\b|‰|千分", re.I)),
    (PER_CENT, re.compile(r"\b100\s*[x×]\s*100\b|\bpercent(?:ages?)?\b|\bper cent\b|百分", re.I)),
)  # fmt: skip


def _pixels(size: tuple[int, int]) -> Scale:
    return size


def _resized(size: tuple[int, int]) -> Scale:
    """The pixels that Qwen2.5-VL's processor makes of a picture with its published settings."""
    factor, least, most = 28, 56 * 56, 1280 * 28 * 28
    width, height = (max(factor, round(side / factor) * factor) for side in size)
    if width * height > most:
        by = math.sqrt(size[0] * size[1] / most)
        width, height = (max(factor, math.floor(s / by / factor) * factor) for s in size)
    elif width * height < least:
        by = math.sqrt(least / (size[0] * size[1]))
        width, height = (math.ceil(s * by / factor) * factor for s in size)
    return width, height


def _every(grid: int) -> Callable[[tuple[int, int]], Scale]:
    return lambda size: grid


# What --notation takes: the grid of coordinates that neither the answer nor the question tells, from
# the size of the picture.
NOTATIONS: dict[str, Callable[[tuple[int, int]], Scale]] = {
    "shares": _every(1),
    "percent": _every(PER_CENT),
    "thousandths": _every(PER_MILLE),
    "pixels": _pixels,
    "qwen2-vl": _every(PER_MILLE),
    "qwen2.5-vl": _resized,
    "qwen3-vl": _every(PER_MILLE),
    "internvl": _every(PER_MILLE),
    "molmo": _every(PER_CENT),
}


def find_notation(name: str) -> str:
    """The name in NOTATIONS that is meant; "" stays. Raises UserInputError with the names."""
    plain = {re.sub(r"\W|_", "", known): known for known in NOTATIONS}
    wanted = re.sub(r"\W|_", "", name.lower())
    if wanted and wanted not in plain:
        raise UserInputError(
            f"--notation is {name[:40]!r}; it takes {', '.join(NOTATIONS)}, the grid of coordinates"
            " that neither answer nor question tells"
        )
    return plain.get(wanted, "")


def named_grid(question: str) -> int | None:
    """The grid per side that a question names: 1, 100 or 1000."""
    match = _GRID.search(question)
    if match:
        return {"999": 1000, "99": 100}.get(match[1]) or int(match[1])
    return next((grid for grid, words in _GRID_NAMES if words.search(question)), None)


def grid_of_mask(reference: Reference, question: str) -> int:
    """The grid on which points are asked that a mask scores; shares where nothing is said."""
    return reference.scale or named_grid(question) or 1


def grid_sentence(grid: int) -> str:
    """How a question is told the grid of its answer."""
    return f"Coordinates run from 0 to {grid} on both sides of the picture."


def with_grid(question: str, answer: PointsAnswer | BoxAnswer, reference: Reference) -> str:
    """The question with the grid of its answer, where the question and its reader told none."""
    told = reference.kind == "pelican" or reference.scale or named_grid(question)
    if told or answer.scale == 1:
        return question
    width, height = sides_of(answer.scale)
    if isinstance(answer.scale, int):
        return f"{question}\n{grid_sentence(width)}"
    return f"{question}\nCoordinates are pixels of the picture at {width} x {height}."


# Points or a box: by the answer's notation; two bare corners by what the question asks for.

_BOX = r"(?:(?:bounding|boundary|enclosing|detection)[ -]?box|\bbbox|\bb-?box|\bbounding rectangle)"
_ONE_BOX = re.compile(
    rf"{_BOX}(?!e?s\b)"
    r"|\b(?:draw|give|return|output|predict|provide|report|mark)\s+(?:a|one|the|its)\s+box\b"
    r"|\b(?:box|rectangle) (?:around|that encloses|coordinates)\b|\bas a box\b|\bxyxy\b"
    r"|\b(?:two|both|opposite)\s+corners\b|\btop[- ]left\b.{0,60}\bbottom[- ]right\b"
    r"|边界框|包围框|检测框|边框|外接框",
    re.IGNORECASE,
)
_BOXES = re.compile(
    rf"{_BOX}e?s\b|\bboxes (?:around|of|for)\b|\b(?:each|every)\b[^.?!]{{0,40}}{_BOX}"
    rf"|{_BOX}\b[^.?!]{{0,30}}\b(?:each|every|all|both)\b",
    re.IGNORECASE,
)
_COUNTED_BOXES = re.compile(
    rf"\b(?:both|two|three|four|five|several|[2-9])\b[^.,?!]{{0,40}}(?:{_BOX}|\bbox)es\b",
    re.IGNORECASE,
)
_PATH = re.compile(
    r"\btrajector(?:y|ies)\b|\bwaypoints?\b|\b(?:motion|hand|gripper|arm|end[- ]effector)(?:'s)?\s+(?:path|trace)\b"
    r"|轨迹|軌跡|路径",
    re.IGNORECASE,
)
_PLACE = re.compile(
    r"\b(?:in|inside|within|cent(?:er|re)s?|middle)\b(?:\s+of)?\s+(?:the|its|this|that|each)\s+(?:\w+\s+)?"
    + _BOX,
    re.IGNORECASE,
)


def region_answer(
    text: str,
    reference: Reference,
    question: str,
    size: tuple[int, int],
) -> Answer | None:
    """The box or the points that a text names, read as the reward reads a reply.

    Args:
        text: The source's answer; a list as JSON.
        reference: Its scale, its notation, and whether it must be points: then numbers without
            brackets are coordinates too.
        question: May name the grid, and decides whether two corners are a box.
        size: Of the picture, (width, height).

    Returns:
        None if the text holds no coordinates.

    Raises:
        RowError: They have no grid, leave their frame, or are of no kind.
    """
    try:
        found = find_regions(text, bare=reference.kind == "points")
        regions = [region for region in found if len(region.numbers) > 1]
        if not regions:
            return None
        scale = _scale(regions, reference, question, size)
        width, height = sides_of(scale)
        for numbers in placed(regions, scale):
            if any(not 0 <= v <= (width, height)[i % 2] for i, v in enumerate(numbers)):
                raise RowError("answer", f"a point lies outside its frame of {width} x {height}")
            if len(numbers) == 4 and not (numbers[0] < numbers[2] and numbers[1] < numbers[3]):
                raise RowError(
                    "answer",
                    f"box {numbers} ends before it begins; write left, top, right, bottom, not width"
                    " and height",
                )
        if _is_box(regions, question):
            return BoxAnswer(box=parse_box(text, scale), scale=scale)
        if len(regions) > 1 and _PATH.search(question):
            raise RowError(
                "answer",
                "no kind of answer holds a path, whose points have an order; ask for one point",
            )
        if len(regions) > MAX_POINTS:
            raise RowError(
                "answer",
                f"the answer has {len(regions)} points, and a reply may name {MAX_POINTS}; split the"
                " row, or give a mask",
            )
        points = [(x / width, y / height) for x, y in parse_points(text, scale)]
        return PointsAnswer(mask=discs(points, size), scale=scale)
    except Unscorable as failure:
        code = "not_finite" if "without end" in failure.reason else "answer"
        raise RowError(code, f"the coordinates can't be used ({failure.reason})") from None


def _scale(
    regions: Sequence[Region],
    reference: Reference,
    question: str,
    size: tuple[int, int],
) -> Scale:
    own = next((region.grid for region in regions if region.grid), None)
    asked = reference.scale or named_grid(question)
    said = NOTATIONS[reference.notation](size) if reference.notation else None
    if own and said and own != said and not asked:
        raise RowError(
            "answer",
            f"the answer's marks mean 0 to {own}, and --notation {reference.notation} says otherwise; import"
            " such rows apart",
        )
    scale = asked or own or said
    shares = all(0 <= v <= 1 for region in regions for v in region.numbers)
    fractions = any(v % 1 for region in regions for v in region.numbers)
    if (
        scale
        and not own
        and not reference.scale
        and shares
        and fractions
        and sides_of(scale)[0] > 1
    ):
        raise RowError(
            "answer",
            f"coordinates between 0 and 1 where 0 to {max(sides_of(scale))} is asked; write both on one"
            " grid",
        )
    if scale:
        return scale
    if shares:
        return 1
    raise RowError(
        "answer",
        "coordinates above 1, and the question names no grid such as 0 to 1000; add it to the"
        " question, say --notation, or divide by the image's width and height",
    )


def _is_box(regions: Sequence[Region], question: str) -> bool:
    """Whether the regions are one box; else they are points. Raises RowError if they are neither."""
    boxes = {region.numbers for region in regions if len(region.numbers) == 4}
    if boxes:
        if len(boxes) > 1 or any(len(region.numbers) != 4 for region in regions):
            raise RowError(
                "answer",
                f"the answer holds {len(regions)} regions, and no kind of answer holds several boxes;"
                " ask for one a row",
            )
        if _COUNTED_BOXES.search(question):
            raise RowError(
                "answer",
                "the question asks for several boxes, and the answer has one; ask for one a row",
            )
        return True
    if any(len(region.numbers) != 2 for region in regions):
        raise RowError("answer", "a point has two coordinates, a box four")
    if len(regions) != 2 or _PLACE.search(question):
        return False
    if _BOXES.search(question):
        raise RowError(
            "answer",
            "the question asks for several boxes, and two corners are one at most; ask for one a row",
        )
    return _ONE_BOX.search(question) is not None


# Masks.

POINT_RADIUS = 0.03  # of the longer side: a point without a mask stands for a disc [D]
MASK_SIDE = 256  # pixels of the longer side of a mask that is drawn from points


def discs(points: Sequence[tuple[float, float]], size: tuple[int, int]) -> Mask:
    """A mask of a disc of POINT_RADIUS around each point (0 to 1) in an image's proportions."""
    factor = min(1.0, MASK_SIDE / max(size))
    width, height = (max(1, round(side * factor)) for side in size)
    image = Image.new("L", (width, height))
    radius = max(1.0, POINT_RADIUS * max(width, height))
    draw = ImageDraw.Draw(image)
    for x, y in points:
        cx, cy = min(x * width, width - 1), min(y * height, height - 1)
        draw.ellipse((cx - radius, cy - radius, cx + radius, cy + radius), fill=1)
    return encode_mask(np.asarray(image))


def read_mask(data: bytes, size: tuple[int, int]) -> Mask:
    """A mask image: what is brighter than half is inside. Raises RowError if it fits no `size`."""
    with decoding("answer", "the mask"), Image.open(io.BytesIO(data), formats=FORMATS) as image:
        if image.size != size:
            raise RowError(
                "mask_size",
                f"a mask of {image.width} x {image.height} for an image of {size[0]} x {size[1]}",
            )
        grey = np.asarray(image.convert("L"))
    # Masks of 0 and 1 are as common as masks of 0 and 255.
    pixels = (grey > (127 if grey.max(initial=0) > 1 else 0)).astype(np.uint8)
    if not pixels.any():
        raise RowError("answer", "the mask is empty")
    return encode_mask(pixels)
