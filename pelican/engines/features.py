"""Features of a frozen vision tower on disk: stages that follow each other encode an image once.

A folder per tower, named by the digest of its weights and of how images are prepared; in it parts,
each written whole or not at all, by any number of processes. Reading maps the files, so that the
processes of a machine share one copy. The folder may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pelican import settings

LIMIT_BYTES = 1 << 30  # of one tower's folder; what comes after is encoded again by each stage
_PART = 512  # images that are worth a file


def tower_digest(visual: nn.Module, image_processor: Any) -> str:
    """Of the weights and of the preprocessing, 16 hexadecimal digits."""
    digest = hashlib.blake2b(image_processor.to_json_string().encode(), digest_size=8)
    for name, tensor in sorted(visual.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


class FeatureFiles:
    """The files of one tower. An image is known by the blake2b digest (16 bytes) of its file."""

    def __init__(self, visual: nn.Module, image_processor: Any, folder: Path | None = None) -> None:
        root = folder or settings.cache() / "features"
        self._folder = root / tower_digest(visual, image_processor)
        self._new: list[tuple[bytes, tuple[int, int, int], Tensor]] = []

    def read(self) -> Iterator[tuple[bytes, tuple[int, int, int], Tensor]]:
        """Digest, grid (t, h, w) in patches, and features [tokens, hidden] of every image."""
        for path in sorted(self._folder.glob("*.safetensors")):
            try:
                part = load_file(path)
            except (OSError, SafetensorError):
                continue  # deleted meanwhile, or another version's; it is only a cache
            sizes = part["sizes"].tolist()
            grids = part["grids"].tolist()
            digests = part["digests"].numpy()
            for digest, grid, features in zip(
                digests, grids, part["features"].split(sizes), strict=True
            ):
                yield digest.tobytes(), (grid[0], grid[1], grid[2]), features

    def add(self, digest: bytes, grid: tuple[int, int, int], features: Tensor) -> None:
        """Remember one image; written with the next part."""
        self._new.append((digest, grid, features))
        if len(self._new) >= _PART:
            self.flush()

    def flush(self) -> None:
        """Write what is new as a part of its own."""
        new, self._new = self._new, []
        size = sum(features.nbytes for _, _, features in new)
        if not new or self._there() + size > LIMIT_BYTES:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{uuid.uuid4().hex}.safetensors"
        save_file(_table(new), path.with_suffix(".partial"))
        os.replace(path.with_suffix(".partial"), path)

    def _there(self) -> int:
        """Bytes in the folder, by whichever process."""
        total = 0
        for path in self._folder.glob("*.safetensors"):
            with suppress(FileNotFoundError):
                total += path.stat().st_size
        return total


def _table(rows: Sequence[tuple[bytes, tuple[int, int, int], Tensor]]) -> dict[str, Tensor]:
    digests = b"".join(digest for digest, _, _ in rows)
    return {
        "digests": torch.frombuffer(bytearray(digests), dtype=torch.uint8).view(len(rows), -1),
        "grids": torch.tensor([grid for _, grid, _ in rows], dtype=torch.int32),
        "sizes": torch.tensor([len(features) for _, _, features in rows], dtype=torch.int32),
        "features": torch.cat([features for _, _, features in rows]).cpu(),
    }
