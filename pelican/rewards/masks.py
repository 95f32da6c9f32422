"""Masks in COCO's run-length encoding, decoded once and kept."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from pelican.errors import UserInputError
from pelican.records import Mask

CACHED_MASKS = 256  # at 1 megapixel each a quarter of a gigabyte


@lru_cache(maxsize=CACHED_MASKS)
def _decode(height: int, width: int, counts: str) -> NDArray[np.uint8]:
    try:
        pixels = coco.decode({"size": [height, width], "counts": counts.encode("ascii")})
    except (ValueError, UnicodeEncodeError) as error:
        raise UserInputError(
            f"a mask of {height} x {width} can't be decoded ({error}); write the sample again"
        ) from None
    return np.asarray(pixels, dtype=np.uint8)


def decode_mask(mask: Mask) -> NDArray[np.uint8]:
    """(height, width) array of 0 and 1; shared by all callers, so do not write to it."""
    return _decode(mask.size[0], mask.size[1], mask.counts)


def encode_mask(pixels: NDArray[np.uint8]) -> Mask:
    """The mask of a (height, width) array of 0 and 1."""
    encoded = coco.encode(np.asfortranarray(pixels, dtype=np.uint8))
    height, width = encoded["size"]
    return Mask(size=(height, width), counts=encoded["counts"].decode("ascii"))
