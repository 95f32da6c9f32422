"""Many masks' COCO run lengths at once: which plainly cover their frames and are not empty.

`pelican.data.entry.mask_fits` is the rule, one mask at a time, and says what is wrong with one.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, groupby

import numpy as np
import numpy.typing as npt

from pelican.records import Mask

MAX_MASK_PIXELS = 1 << 26
_DIGITS = 7  # of a run, five bits each; no frame has a longer one
_AT_ONCE = 1 << 19  # digits; an array of them takes 4 MB
Integers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


def whole_masks(masks: Sequence[Mask]) -> Flags:
    """False is for masks that may be whole or not."""
    good = np.array([_readable(mask) for mask in masks], bool)
    ends = accumulate(len(mask.counts) for mask in masks)
    part_of = [end // _AT_ONCE for end in ends]
    for _, part in groupby(np.flatnonzero(good).tolist(), lambda i: part_of[i]):
        numbers = list(part)
        good[numbers] = _whole([masks[i] for i in numbers])
    return good


def _readable(mask: Mask) -> bool:
    """A frame of a usable size, and digits whose last one ends a run."""
    height, width = mask.size
    text = mask.counts
    fits = height >= 1 and width >= 1 and height * width <= MAX_MASK_PIXELS
    return fits and text != "" and text.isascii() and not (ord(text[-1]) - 48) & 0x20


def _whole(masks: Sequence[Mask]) -> Flags:
    text = "".join(mask.counts for mask in masks).encode("ascii")
    digits = np.frombuffer(text, np.uint8).astype(np.int64) - 48
    last = np.flatnonzero(digits & 0x20 == 0)  # the other digits are followed by one
    first = np.concatenate([[0], last[:-1] + 1])
    length = last - first + 1
    place = np.arange(len(digits)) - np.repeat(first, length)
    values = np.add.reduceat((digits & 0x1F) << 5 * np.minimum(place, _DIGITS), first)
    values -= np.where(digits[last] & 0x10, 1 << 5 * np.minimum(length, _DIGITS), 0)
    ends = np.cumsum([len(mask.counts) for mask in masks])
    owners = np.searchsorted(ends, last, side="right")
    number = np.arange(len(last)) - _starts(owners, len(masks))[owners]  # of a run in its mask
    odd = number % 2 == 1
    # From the fourth on a run is kept as the difference to the last but one.
    runs = values.copy()
    for chain in (odd, ~odd & (number > 0)):
        runs[chain] = _sums(values[chain], owners[chain], len(masks))
    wrong = (runs < 0) | (length > _DIGITS)
    wrong |= np.logical_or.reduceat((digits < 0) | (digits > 63), first)
    pixels = np.array([mask.size[0] * mask.size[1] for mask in masks])
    covered, inside, faults = (
        np.bincount(owners, weights, minlength=len(masks))
        for weights in (runs, np.where(odd, runs, 0), wrong)
    )
    whole: Flags = (faults == 0) & (covered == pixels) & (inside > 0)
    return whole


def _starts(owners: Integers, count: int) -> Integers:
    """Where each owner's part begins; equal owners stand together."""
    return np.searchsorted(owners, np.arange(count))


def _sums(values: Integers, owners: Integers, count: int) -> Integers:
    """Running sums that begin anew with each owner."""
    before = np.concatenate([[0], np.cumsum(values)])
    sums: Integers = before[1:] - before[_starts(owners, count)][owners]
    return sums
