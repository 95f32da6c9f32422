"""Perceptual hashes of images, and near ones found without comparing all with all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 16
BITS = SIDE * SIDE
BANDS = 16  # of 16 bits: two hashes that differ in fewer bits than bands share a band whole
MAX_BUCKET = 200  # hashes in one band's bucket that are compared with each other
MAX_PAIRS = 1_000_000  # more say no more, and would fill the memory
FLAT = 2.0  # standard deviation of grey below which an image shows nothing


def perceptual_hash(image: Image.Image) -> bytes | None:
    """Difference hash: 256 bits, 1 where a pixel of the 17 x 16 grey image is darker than the next.

    None for an image without structure: all such are alike. Reads the image to its end and raises
    what Pillow raises.
    """
    image.draft("L", (SIDE * 4, SIDE * 4))  # a JPEG is decoded small, at a fraction of the cost
    grey = np.asarray(
        image.convert("L").resize((SIDE + 1, SIDE), Image.Resampling.BOX), dtype=np.int16
    )
    if grey.std() < FLAT:
        return None
    return np.packbits(grey[:, 1:] > grey[:, :-1]).tobytes()


def distances(hashes: NDArray[np.uint8], one: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Bits in which each of `hashes` [n, 32] differs from `one` [32]."""
    apart: NDArray[np.int64] = np.bitwise_count(hashes ^ one).sum(axis=1, dtype=np.int64)
    return apart


def near_pairs(
    hashes: NDArray[np.uint8], limit: int, groups: NDArray[np.int64]
) -> Iterator[tuple[int, int, int]]:
    """(i, j, bits) of the pairs i < j of two groups that differ in at most `limit` (< BANDS) bits.

    `groups` [n]: the scene of each; frames of one scene are near by nature. Exact but for buckets above MAX_BUCKET, of which each hash is compared with MAX_BUCKET
    neighbours: thousands of pictures of one table share bands, and all their pairs say no more.
    """
    if limit >= BANDS:
        raise ValueError(f"near duplicates may differ in fewer than {BANDS} bits, not {limit}")
    bands = np.ascontiguousarray(hashes).view(np.uint16)
    found: set[tuple[int, int]] = set()
    for band in range(BANDS):
        order = np.argsort(bands[:, band], kind="stable")
        values = bands[order, band]
        changes = np.flatnonzero(values[1:] != values[:-1]) + 1
        starts = [0, *changes.tolist()]
        for start, end in pairwise([*starts, len(values)]):
            members = order[start:end]
            for at in range(len(members) - 1):
                rest = members[at + 1 : at + 1 + MAX_BUCKET]
                apart = distances(hashes[rest], hashes[members[at]])
                near = (apart <= limit) & (groups[rest] != groups[members[at]])
                for k in np.flatnonzero(near):
                    i, j = sorted((int(members[at]), int(rest[k])))
                    if (i, j) not in found:
                        found.add((i, j))
                        yield i, j, int(apart[k])
                        if len(found) == MAX_PAIRS:
                            return


def stacked(hashes: Sequence[bytes]) -> NDArray[np.uint8]:
    """[n, 32]"""
    return np.frombuffer(b"".join(hashes), dtype=np.uint8).reshape(-1, BITS // 8)
