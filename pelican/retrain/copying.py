"""Rows of pools copied into a pool of a run, images and all, one shard at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from pelican.data.entry import Entry
from pelican.data.pool import PoolIndex
from pelican.data.quarantine import Quarantine
from pelican.data.tables import write_samples
from pelican.records import Sample
from pelican.storage.objects import ObjectStore

SHARD = 512  # rows


def copy_rows(
    store: ObjectStore,
    index: PoolIndex,
    entries: Sequence[Entry],
    shard: str,
    *,
    max_pixels: int,
    quarantine: Quarantine,
    change: Callable[[Sample], Sample] = lambda sample: sample,
) -> list[str]:
    """Write `entries` as `<shard>-00000.parquet`, … ; returns their ids. Bad images: `quarantine`."""
    written: list[str] = []
    ordered = sorted(entries, key=lambda e: (e.shard, e.row))
    for start in range(0, len(ordered), SHARD):
        part = ordered[start : start + SHARD]
        samples = [
            change(s) for s in index.load(part, max_pixels=max_pixels, quarantine=quarantine)
        ]
        if samples:
            _put(store, f"{shard}-{start // SHARD:05d}.parquet", samples)
            written += [sample.id for sample in samples]
    return written


def _put(store: ObjectStore, key: str, samples: Iterable[Sample]) -> None:
    folder, _, name = key.rpartition("/")
    path = store.local_root(folder) / name
    write_samples(path, list(samples))
    store.put(key, path)
