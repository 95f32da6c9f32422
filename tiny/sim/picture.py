"""A rendered picture and the owner of every pixel: outlines, bare table, the file. No physics."""

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tiny.sim import rle
from tiny.sim.records import SIZE, Mask
from tiny.sim.world import TABLE


@dataclass
class Look:
    """One picture with the owner of every pixel."""

    rgb: NDArray[np.uint8]  # [SIZE, SIZE, 3]
    owner: NDArray[np.int64]  # [SIZE, SIZE]: as of `World.owner`


def outline(
    mask: NDArray[np.bool_],
) -> tuple[int, tuple[int, int], tuple[int, int, int, int]]:
    """Pixels of a mask, its centre on 0..99 and its box on 0..100; (-1, -1) if nothing shows."""
    ys, xs = np.nonzero(mask)
    if not len(xs):
        return 0, (-1, -1), (0, 0, 1, 1)
    centre = (int((xs.mean() + 0.5) * 100 / SIZE), int((ys.mean() + 0.5) * 100 / SIZE))
    edges = (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
    x0, y0, x1, y1 = (round(float(v) * 100 / SIZE) for v in edges)
    return len(xs), centre, (x0, y0, x1, y1)


def bare_table(look: Look, margin: int = 3) -> Mask:
    """Table at least `margin` pixels from anything."""
    return rle.encode(shrink(look.owner == TABLE, margin))


def shrink(mask: NDArray[np.bool_], margin: int) -> NDArray[np.bool_]:
    """Erodes a mask by a square of `margin` pixels; what lies outside the frame is not in it."""
    h, w = mask.shape
    padded = np.pad(mask, margin)
    out = mask.copy()
    for d in range(2 * margin + 1):
        out &= padded[d : d + h, margin : margin + w]
    padded = np.pad(out, margin)
    for d in range(2 * margin + 1):
        out &= padded[margin : margin + h, d : d + w]
    return out


def jpeg(rgb: NDArray[np.uint8]) -> bytes:
    """A JPEG file of quality 90 of a picture [h, w, 3]."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "JPEG", quality=90, subsampling=0, optimize=False)
    return buffer.getvalue()
