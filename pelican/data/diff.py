"""Two pools, row by row: what is new, what is gone, what changed in which columns."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pelican.data.importing.shards import read_columns
from pelican.data.tables import SAMPLES, open_parquet, shard_paths

_COMPARED = tuple(n for n in SAMPLES.names if n not in ("id", "images"))
_COUNTED = ("family", "split")


@dataclass
class Diff:
    """From A to B. `changed`: id -> columns that differ. `counts`: column -> value -> (A, B)."""

    added: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    changed: dict[str, list[str]] = field(default_factory=dict)
    same: int = 0
    counts: dict[str, dict[str, tuple[int, int]]] = field(default_factory=dict)

    @property
    def columns(self) -> Counter[str]:
        """Rows that changed, by column."""
        return Counter(name for names in self.changed.values() for name in names)


def diff(a: Path, b: Path) -> Diff:
    """Holds one digest a column and row; images are compared by their bytes."""
    before, counts_a = _digests(a)
    after, counts_b = _digests(b)
    found = Diff()
    names = [*_COMPARED, "images"]
    for id, row in after.items():
        old = before.get(id)
        if old is None:
            found.added.append(id)
        elif old == row:
            found.same += 1
        else:
            parts = zip(names, _parts(old), _parts(row), strict=True)
            found.changed[id] = [name for name, x, y in parts if x != y]
    found.removed = [id for id in before if id not in after]
    for name in _COUNTED:
        values = sorted(counts_a[name].keys() | counts_b[name].keys())
        found.counts[name] = {v: (counts_a[name][v], counts_b[name][v]) for v in values}
    return found


_SIZE = 8  # bytes of a column's digest


def _digests(pool: Path) -> tuple[dict[str, bytes], dict[str, Counter[str]]]:
    rows: dict[str, bytes] = {}
    counts: dict[str, Counter[str]] = {name: Counter() for name in _COUNTED}
    paths = shard_paths(pool)
    images = _images(paths)
    for row in read_columns(paths, ["id", *_COMPARED]):
        for name in _COUNTED:
            counts[name][str(row[name])] += 1
        parts = [_digest(repr(row[name]).encode()) for name in _COMPARED]
        rows[str(row["id"])] = b"".join([*parts, next(images)])
    return rows, counts


def _images(paths: list[Path]) -> Any:
    """The digest of every row's images, in small batches: they are what a pool is made of."""
    for path in paths:
        for batch in open_parquet(path).iter_batches(batch_size=8, columns=["images"]):
            for row in batch.to_pylist():
                whole = hashlib.blake2b(digest_size=_SIZE)
                for image in row["images"] or ():
                    whole.update(_digest((image or {}).get("bytes") or repr(image).encode()))
                yield whole.digest()


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=_SIZE).digest()


def _parts(row: bytes) -> list[bytes]:
    return [row[i : i + _SIZE] for i in range(0, len(row), _SIZE)]
