"""The rendered corpus in memory: decoded frames with their dense labels, and the episodes."""

from __future__ import annotations

import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from tiny.model.architecture import IMAGE_SIDE
from tiny.sim.build import load_shard
from tiny.sim.records import QA, Episode


@dataclass(frozen=True)
class Scene:
    """An episode or a card, by the rows of its frames in `Corpus.pixels`."""

    first: int
    times_s: tuple[float, ...]
    episode: Episode | None
    card: tuple[QA, ...]


@dataclass
class Corpus:
    """`pixels` uint8 [n, 112, 112, 3]; `labels` [n, 4, 4, 2, 8]; `grips` [n, 2]."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int16]
    grips: NDArray[np.int16]
    scenes: list[Scene]

    def images(self, rows: NDArray[np.int64] | list[int], processor: Any) -> Tensor:
        """Normalised images [len(rows), 3, 112, 112], as the processor makes them."""
        mean = torch.tensor(processor.image_mean).view(3, 1, 1)
        std = torch.tensor(processor.image_std).view(3, 1, 1)
        pixels = torch.from_numpy(self.pixels[rows]).permute(0, 3, 1, 2).float() / 255
        return (pixels - mean) / std


def load_corpus(
    folder: Path, kinds: tuple[str, ...] = ("stills", "clips", "general"), shards: int | None = None
) -> Corpus:
    """The finished shards of `kinds` below `folder`, or the first `shards` of each kind."""
    paths = [path for kind in kinds for path in sorted(folder.glob(f"{kind}-????.npz"))[:shards]]
    pixels, labels, grips = [], [], []
    scenes: list[Scene] = []
    start = 0
    with ThreadPoolExecutor(2) as pool:
        for path in paths:
            shard = load_shard(path)
            pixels.append(np.stack(list(pool.map(_decode, shard.frames))))
            labels.append(shard.tokens)
            grips.append(shard.gripper)
            scenes += _scenes(shard, start)
            start += len(shard.frames)
    return Corpus(np.concatenate(pixels), np.concatenate(labels), np.concatenate(grips), scenes)


def _scenes(shard: Any, start: int) -> Iterator[Scene]:
    for row in shard.rows:
        first = start + row["first_frame"]
        if "qas" in row:
            yield Scene(first, (0.0,), None, tuple(QA(**qa) for qa in row["qas"]))
        else:
            body = {k: v for k, v in row.items() if k not in ("first_frame", "frame_count")}
            yield Scene(
                first,
                tuple(row["times_s"]),
                Episode.from_json(body, [b""] * len(row["times_s"])),
                (),
            )


def _decode(image: bytes) -> NDArray[np.uint8]:
    pixels = np.asarray(Image.open(io.BytesIO(image)).convert("RGB"))
    if pixels.shape != (IMAGE_SIDE, IMAGE_SIDE, 3):
        raise ValueError(f"a frame is {pixels.shape}, not {IMAGE_SIDE} x {IMAGE_SIDE}")
    return pixels
