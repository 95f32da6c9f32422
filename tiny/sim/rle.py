"""Binary masks in COCO's compressed run-length encoding, without pycocotools."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def encode(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """{"size": [h, w], "counts": str} of a mask [h, w]."""
    flat = np.concatenate([[False], mask.T.ravel().astype(bool)])
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    runs = np.diff(np.concatenate([[0], edges, [mask.size]])).tolist()
    text = []
    for i, run in enumerate(runs):
        x = int(run) - (int(runs[i - 2]) if i > 2 else 0)
        while True:
            bits, x = x & 0x1F, x >> 5
            more = x != (-1 if bits & 0x10 else 0)
            text.append(chr((bits | 0x20 if more else bits) + 48))
            if not more:
                break
    return {"size": [int(mask.shape[0]), int(mask.shape[1])], "counts": "".join(text)}


def decode(rle: dict[str, Any]) -> NDArray[np.bool_]:
    """The mask [h, w] of an encoding."""
    h, w = rle["size"]
    runs: list[int] = []
    x, shift = 0, 0
    for char in rle["counts"]:
        bits = ord(char) - 48
        x |= (bits & 0x1F) << shift
        shift += 5
        if not bits & 0x20:
            if bits & 0x10:
                x |= -1 << shift
            runs.append(x + runs[-2] if len(runs) > 2 else x)
            x, shift = 0, 0
    values = np.arange(len(runs)) % 2 == 1
    return np.repeat(values, runs).reshape(w, h).T
