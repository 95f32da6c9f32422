"""What may not be shared: a scene or an image that is trained on and held out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pelican.data.images import image_bytes, image_digest
from pelican.data.quarantine import RowError
from pelican.data.rows import shard_rows
from pelican.data.tables import shard_paths
from pelican.errors import UserInputError

TRAINING_POOLS = frozenset({"train", "replay"})


@dataclass(frozen=True)
class _Place:
    """Where a scene or an image was seen first."""

    pool: str
    folder: Path
    split: str
    scene: str

    def leaks_to(self, other: _Place) -> bool:
        if self.split != other.split:
            return True
        sides = {p.pool in TRAINING_POOLS for p in (self, other)}
        return len(sides) == 2 and self.folder != other.folder

    def __str__(self) -> str:
        return f"split {self.split} ({self.pool} pool)"


def check_splits(folders: Mapping[str, Path], *, images: bool = True) -> None:
    """Raise UserInputError if a scene or an image is in two of train, dev and test.

    `folders`: pool name -> folder. The pools `train` and `replay` are trained on, any other name
    is held out: the two sides may not share anything either, whatever their rows' `split` says.
    `images=False` reads scenes alone, which is quick in a pool of any size.
    """
    scenes: dict[str, _Place] = {}
    pictures: dict[bytes, _Place] = {}
    columns = ("scene", "split", "images") if images else ("scene", "split")
    for name, folder in folders.items():
        where = folder.resolve()
        root = where if where.is_dir() else where.parent
        for path in shard_paths(folder):
            for _, values in shard_rows(path, None, columns):
                if isinstance(values, RowError):
                    continue  # quarantined when the pool is read
                place = _Place(name, where, str(values["split"]), str(values["scene"]))
                first = scenes.setdefault(place.scene, place)
                if first.leaks_to(place):
                    raise UserInputError(
                        f"scene {place.scene!r} is in {first} and in {place};"
                        " keep each scene in one split"
                    )
                for image in values.get("images") or ():
                    try:
                        digest = image_digest(image_bytes(image, root))
                    except RowError:
                        continue
                    first = pictures.setdefault(digest, place)
                    if first.leaks_to(place):
                        raise UserInputError(
                            f"one image is in scene {first.scene!r} of {first} and in scene"
                            f" {place.scene!r} of {place}; keep each image in one split"
                        )
