"""Which samples a loop practises on, and which split a sample belongs to."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pelican.config.recipe import Recipe
from pelican.data.entries import FAMILY, SPLIT, Entries, Entry, rows_of
from pelican.data.images import image_bytes, image_digest
from pelican.data.pool import PoolIndex
from pelican.data.tables import RowError, shard_paths, shard_rows
from pelican.errors import UserInputError
from pelican.records import Phase, Split

# The samples of a loop: fresh ones, spread over the families, the same on every machine.

Numbers = npt.NDArray[np.int64]
Codes = npt.NDArray[np.int8]


def loop_samples(index: PoolIndex, recipe: Recipe, loop: int, phase: Phase) -> list[Entry]:
    """The rows that loop `loop` rolls out in `phase`, in the order of the pool.

    Phase rl: the loop's `samples_per_loop` fresh rows. Phase sft: the same and as many further
    fresh rows, so that weak mining also sees what RL did not train on. Fresh rows overlap with no
    earlier draw while the pool lasts; then those used least come again. Only split `train`, only
    clips within the loop's horizon. Without `samples_per_loop` both phases see every such row.
    """
    entries = Entries.of(index.entries)
    span_s, families = entries.column("span_s"), entries.column("family")
    train = entries.column("split") == SPLIT.index(Split.TRAIN)
    candidates = train & (span_s <= recipe.data.horizon(loop))
    if not candidates.any():
        raise UserInputError(
            f"pool {index.folder} has no sample of split train within the horizon of"
            f" {recipe.data.horizon(loop):g} s; check data.train and data.horizon_s"
        )
    size = recipe.data.samples_per_loop
    if size is None or size >= candidates.sum():
        return rows_of(index.entries, candidates)
    uses = np.zeros(len(entries), np.int64)
    order = _shuffled(entries.column("id"), f"select:{recipe.seed}")
    for k in range(1, max(loop, 1) + 1):  # loop 0, a diagnosis, draws as loop 1 does
        within = train & (span_s <= recipe.data.horizon(min(k, loop)))
        eligible = order[within[order]]
        taken = np.zeros(len(entries), bool)
        for _ in range(1 if k >= loop and phase is not Phase.SFT else 2):
            taken[_draw(eligible[~taken[eligible]], families, uses, size)] = True
    return sorted(rows_of(index.entries, taken), key=lambda e: (e.shard, e.row))


def shuffled(entries: Sequence[Entry], salt: str) -> list[Entry]:
    """`entries` in an order that depends on `salt` and their ids only, not on the shards."""

    return [entries[i] for i in _shuffled([entry.id for entry in entries], salt)]


def _shuffled(ids: Iterable[str], salt: str) -> Numbers:
    """The places of `ids` in an order that depends on `salt` and the ids alone."""
    start = hashlib.blake2b(f"{salt}:".encode(), digest_size=16)
    digests = []
    for name in ids:
        digest = start.copy()
        digest.update(name.encode())
        digests.append(digest.digest())
    high, low = np.frombuffer(b"".join(digests), ">u8").reshape(-1, 2).T
    order: Numbers = np.lexsort((low, high))
    return order


def _draw(rows: Numbers, families: Codes, uses: Numbers, size: int) -> Numbers:
    """`size` of `rows`, those used least first, stratified by family; counts them as used."""
    chosen = rows[:0]
    for level in np.unique(uses[rows]):
        same = rows[uses[rows] == level]
        room = size - len(chosen)
        if room < len(same):
            parts = {
                FAMILY[code].value: same[families[same] == code]
                for code in np.unique(families[same])
            }
            quota = _quotas({name: len(part) for name, part in parts.items()}, room)
            same = np.concatenate([part[: quota[name]] for name, part in parts.items()])
        chosen = np.concatenate([chosen, same])
    uses[chosen] += 1
    return chosen


def stratified(entries: Sequence[Entry], size: int) -> list[Entry]:
    """The first of every family, each family's part within one row of its share of `entries`."""
    if size >= len(entries):
        return list(entries)
    families: defaultdict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        families[entry.family.value].append(entry)
    quota = _quotas({name: len(rows) for name, rows in families.items()}, size)
    return [entry for name in sorted(families) for entry in families[name][: quota[name]]]


def _quotas(counts: Mapping[str, int], size: int) -> dict[str, int]:
    """How many of each family, to within one row of its share."""
    shares = {name: size * count / sum(counts.values()) for name, count in counts.items()}
    quota = {name: int(share) for name, share in shares.items()}
    # Largest remainders; a remainder exists only where the family has another row to give.
    by_remainder = sorted(counts, key=lambda name: (quota[name] - shares[name], name))
    for name in by_remainder[: size - sum(quota.values())]:
        quota[name] += 1
    return quota


# Splits: no scene and no image may be both trained on and held out.

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
