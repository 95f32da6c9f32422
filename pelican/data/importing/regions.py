"""Points, boxes and masks, on the grid that the question names (such as 0 to 1000)."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from pelican.data.formats.base import Reference
from pelican.data.images import FORMATS, decoding
from pelican.data.tables import RowError
from pelican.records import Answer, BoxAnswer, Mask, PointsAnswer
from pelican.rewards.masks import encode_mask

POINT_RADIUS = 0.03  # of the longer side: a point without a mask stands for a disc [D]
MASK_SIDE = 256  # pixels of the longer side of a mask that is drawn from points
_GRID = re.compile(
    r"\b(?:0|zero)\s*(?:to|-|–|and|,)\s*(1000|999|100|99|1)\b(?!\.\d)", re.IGNORECASE
)


def grid(question: str, groups: Sequence[Sequence[float]] | None) -> int:
    """The grid on which the question asks: 1, 100 or 1000 per side."""
    match = _GRID.search(question)
    if match:
        return {"999": 1000, "99": 100}.get(match[1]) or int(match[1])
    if groups is None or all(0 <= v <= 1 for group in groups for v in group):
        return 1
    raise RowError(
        "answer",
        "coordinates above 1, and the question names no grid such as 0 to 1000; add it to the"
        " question, or divide by the image's width and height",
    )


def region_answer(
    groups: Sequence[Sequence[float]], reference: Reference, question: str, size: tuple[int, int]
) -> Answer:
    """A box, or points as a mask of discs. Raises RowError if one leaves the frame."""
    scale = reference.scale or grid(question, groups)
    if any(not 0 <= v <= scale for group in groups for v in group):
        raise RowError("answer", f"a point lies outside its frame of {scale} x {scale}")
    if len(groups) == 1 and len(groups[0]) == 4:
        x0, y0, x1, y1 = groups[0]
        return BoxAnswer(box=(x0, y0, x1, y1), scale=scale)
    if any(len(group) != 2 for group in groups):
        raise RowError("answer", "a point has two coordinates, a box four")
    return PointsAnswer(mask=discs([(x / scale, y / scale) for x, y in groups], size), scale=scale)


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
