"""The vision tower: images encoded once, their features kept and looked up."""

from __future__ import annotations

import hashlib
import os
import uuid
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pelican.config import env
from pelican.data.images import open_seen
from pelican.engines.transformers_private import (
    feature_width,
    patches_per_token,
    replace_forward,
)

# Features of a frozen vision tower on disk, so that the stages of a run encode an image once.
#
# Each tower has a folder, named by the digest of its weights and of the preprocessing of images. In it
# are parts: any number of processes write them, each part whole or not at all. Reading maps the files,
# so the processes of a machine share one copy. The folder may be deleted at any time.

LIMIT_BYTES = 1 << 30  # of one tower's folder; beyond it each stage encodes its new images again
_PART = 512  # images of a part


def tower_digest(visual: nn.Module, image_processor: Any) -> str:
    """Digest of a tower's weights and of the preprocessing, 16 hexadecimal digits."""
    digest = hashlib.blake2b(image_processor.to_json_string().encode(), digest_size=8)
    # Of data.images: other pixels of the same bytes, other features.
    digest.update(b"pixels as seen")
    for name, tensor in sorted(visual.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


Grid = tuple[int, int, int]  # (t, h, w) in patches
Features = tuple[bytes, Grid, Tensor]  # digest, grid, features [tokens, hidden] of one image


class FeatureFiles:
    """The cached image features of one frozen vision tower, as files in a folder of its own.

    An image is found by the blake2b digest (16 bytes) of its encoded bytes.
    """

    def __init__(self, visual: nn.Module, image_processor: Any, folder: Path | None = None) -> None:
        root = folder or env.cache() / "features"
        self._folder = root / tower_digest(visual, image_processor)
        self._new: list[Features] = []

    def read(self) -> Iterator[Features]:
        """What the files hold, image by image."""
        for path in sorted(self._folder.glob("*.safetensors")):
            try:
                part = load_file(path)
            except (OSError, SafetensorError):
                continue  # deleted meanwhile, or of another version: it is only a cache
            sizes = part["sizes"].tolist()
            grids = part["grids"].tolist()
            digests = part["digests"].numpy()
            for digest, grid, features in zip(
                digests, grids, part["features"].split(sizes), strict=True
            ):
                yield digest.tobytes(), (grid[0], grid[1], grid[2]), features

    def add(self, digest: bytes, grid: Grid, features: Tensor) -> None:
        """Keep the features [tokens, hidden] of one image for the next part."""
        self._new.append((digest, grid, features))
        if len(self._new) >= _PART:
            self.flush()

    def flush(self) -> None:
        """Write what was added since the last part as a new one, if there is room for it."""
        new, self._new = self._new, []
        size = sum(features.nbytes for _, _, features in new)
        if not new or self._folder_bytes() + size > LIMIT_BYTES:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{uuid.uuid4().hex}.safetensors"
        save_file(_table(new), path.with_suffix(".partial"))
        os.replace(path.with_suffix(".partial"), path)

    def _folder_bytes(self) -> int:
        """How large the folder is, with the parts of all processes."""
        total = 0
        for path in self._folder.glob("*.safetensors"):
            with suppress(FileNotFoundError):
                total += path.stat().st_size
        return total


def _table(rows: Sequence[Features]) -> dict[str, Tensor]:
    """The tensors of a file.

    `digests` is [images, 16], `grids` [images, 3], `sizes` [images] tokens each, `features` [tokens
    of all, hidden].
    """
    digests = b"".join(digest for digest, _, _ in rows)
    return {
        "digests": torch.frombuffer(bytearray(digests), dtype=torch.uint8).view(len(rows), -1),
        "grids": torch.tensor([grid for _, grid, _ in rows], dtype=torch.int32),
        "sizes": torch.tensor([len(features) for _, _, features in rows], dtype=torch.int32),
        "features": torch.cat([features for _, _, features in rows]).cpu(),
    }


# Sources of prepared images: each image is preprocessed once, and encoded once if the tower is frozen.
#
# The processor's output of one image is `rows` of shape [t * h * w, width], with its grid (t, h, w).
# `FeatureBank` replaces them by rows of width 1 that hold the image's key, and the tower's forward by a
# look-up of keys. So everything between (batching, TRL's slicing, gradient accumulation) is unchanged.

_PIXEL_CACHE = (
    256  # preprocessed images that are kept, because rollouts of one group follow each other
)


@dataclass(frozen=True)
class Prepared:
    """One image, ready for a batch.

    `rows` [t * h * w, width] are its patches, or with a FeatureBank [t * h * w, 1] its key; `grid`
    is (t, h, w) in patches.
    """

    rows: Tensor
    grid: Grid


class PixelSource:
    """Preprocesses images with the model's own processor; keeps a bounded number of them."""

    def __init__(self, image_processor: Any) -> None:
        self._processor = image_processor
        self._cache: OrderedDict[bytes, Prepared] = OrderedDict()

    def prepare(self, images: Sequence[bytes]) -> list[Prepared]:
        return [self._one(image) for image in images]

    def masked(self, image: Prepared, share: float, generator: torch.Generator) -> Prepared:
        """The image with a random `share` of its patches black."""
        mean, std = (
            torch.tensor(v) for v in (self._processor.image_mean, self._processor.image_std)
        )
        black = (-mean / std).repeat_interleave(image.rows.shape[1] // len(mean))
        hidden = torch.rand(len(image.rows), 1, generator=generator) < share
        return Prepared(torch.where(hidden, black.to(image.rows), image.rows), image.grid)

    def _one(self, image: bytes) -> Prepared:
        key = hashlib.blake2b(image, digest_size=16).digest()
        found = self._cache.get(key)
        if found is None:
            found = self._cache[key] = preprocess(self._processor, [image])[0]
            if len(self._cache) > _PIXEL_CACHE:
                self._cache.popitem(last=False)
        else:
            self._cache.move_to_end(key)
        return found


class FeatureBank:
    """Features of a frozen vision tower in memory, [h * w / 4, hidden] floats per image.

    Making one replaces `visual.forward`: afterwards it turns a batch of keys into a batch of features.
    With `files` the bank starts with what earlier stages encoded, and leaves there what it encodes.
    """

    def __init__(
        self, visual: nn.Module, image_processor: Any, files: FeatureFiles | None = None
    ) -> None:
        self._processor = image_processor
        self._device = next(visual.parameters()).device
        self._merge = patches_per_token(visual)
        self._width = feature_width(visual)
        self._keys: dict[bytes, int] = {}
        self._grids: list[Grid] = []
        self._features: list[Tensor] = []
        self._files = files
        for digest, grid, features in files.read() if files else ():
            self._keep(digest, grid, features)
        self._found = len(self._features)
        self._encode = replace_forward(visual, self._look_up)
        visual.requires_grad_(False)

    def _keep(self, digest: bytes, grid: Grid, features: Tensor) -> None:
        if digest not in self._keys:
            self._keys[digest] = len(self._features)
            self._grids.append(grid)
            self._features.append(features)

    def flush(self) -> None:
        """Write what was encoded to the files, for the stages that follow."""
        if self._files is not None:
            self._files.flush()

    def forget(self) -> None:
        """Free what was encoded here. Images that were prepared before can't be looked up any more."""
        del self._features[self._found :], self._grids[self._found :]
        while len(self._keys) > self._found:  # the newest first
            self._keys.popitem()

    def prepare(self, images: Sequence[bytes]) -> list[Prepared]:
        digests = [hashlib.blake2b(image, digest_size=16).digest() for image in images]
        new = {d: image for d, image in zip(digests, images, strict=True) if d not in self._keys}
        if new:
            self._add(new)
        prepared = []
        for digest in digests:
            key = self._keys[digest]
            grid = self._grids[key]
            rows = torch.full((grid[0] * grid[1] * grid[2], 1), float(key))
            prepared.append(Prepared(rows, grid))
        return prepared

    @torch.no_grad()
    def _add(self, images: dict[bytes, bytes]) -> None:
        prepared = preprocess(self._processor, list(images.values()))
        rows = torch.cat([image.rows for image in prepared])
        grids = torch.tensor([image.grid for image in prepared])
        features = self._encode(rows.to(self._device), grids.to(self._device))
        sizes = [g[0] * g[1] * g[2] // self._merge for g in (image.grid for image in prepared)]
        for digest, image, feature in zip(images, prepared, features.split(sizes), strict=True):
            own = feature.clone()
            self._keep(digest, image.grid, own)
            if self._files is not None:
                self._files.add(digest, image.grid, own)

    def _look_up(self, rows: Tensor, grids: Tensor) -> Tensor:
        """Features [tokens, hidden] of rows of keys [patches, 1]; grids are [images, 3]."""
        starts = grids.prod(-1).cumsum(0) - grids.prod(-1)
        keys = rows[starts.to(rows.device), 0].long()
        hidden = rows[:: self._merge] < 0  # the rows of one token follow each other
        keys = torch.where(keys < 0, -keys - 1, keys)
        features = torch.cat([self._features[key] for key in keys.tolist()])
        if hidden.any():
            features = features.masked_fill(hidden.to(features.device), 0.0)
        return features

    def masked(self, image: Prepared, share: float, generator: torch.Generator) -> Prepared:
        """The image with the features of a random `share` of its tokens 0.

        Rows with a negative key mark these tokens for the look-up. Features of the other tokens stay
        as they are, although the tower saw the hidden ones when it computed them.
        """
        tokens = len(image.rows) // self._merge
        hidden = torch.rand(tokens, 1, generator=generator) < share
        rows = torch.where(hidden.repeat_interleave(self._merge, 0), -image.rows - 1, image.rows)
        return Prepared(rows, image.grid)

    def mean(self, images: Sequence[bytes]) -> Tensor:
        """Mean of the features of all tokens of all `images`, shape [hidden]; 0 of none."""
        if not images:
            return torch.zeros(self._width)
        keys = [int(p.rows[0, 0]) for p in self.prepare(images)]
        return torch.cat([self._features[key] for key in keys]).mean(0)


ImageSource = PixelSource | FeatureBank


def preprocess(image_processor: Any, images: Sequence[bytes]) -> list[Prepared]:
    """Decode and preprocess encoded images."""
    decoded = [open_seen(image) for image in images]
    output = image_processor(images=decoded, return_tensors="pt")
    grids = [tuple(grid) for grid in output["image_grid_thw"].tolist()]
    rows = output["pixel_values"].split([t * h * w for t, h, w in grids])
    return [Prepared(r, grid) for r, grid in zip(rows, grids, strict=True)]
