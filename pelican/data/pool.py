"""A pool: a folder of Parquet shards whose rows are checked once (`read_index`) and then read by row."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pelican.data.corrections import NONE, Corrections
from pelican.data.entries import ENTRIES, Entries, Entry, block_of, entry_of, plain_rows, rows_of
from pelican.data.images import ImageChecker, image_bytes
from pelican.data.tables import (
    Quarantine,
    RowError,
    sample_from_row,
    shard_batches,
    shard_paths,
    shard_rows,
    values_of,
)
from pelican.errors import UserInputError
from pelican.records import Sample

# Every row is checked, all but its images: by columns, and one by one where that leaves a doubt.

# (shard, row) -> the id of a row, as far as it can be read, and what is wrong with it
Faults = dict[tuple[int, int], tuple[str, RowError]]


@dataclass(frozen=True)
class Checked:
    """The usable rows, the others, and which of the corrections' ids the pool has."""

    entries: Entries
    faults: Faults
    known: frozenset[str]


@dataclass
class _Part:
    """Some rows of one shard: the usable ones; numbers and ids of all that can be read."""

    shard: int
    usable: pa.RecordBatch
    rows: npt.NDArray[np.int64]
    ids: pa.Array


def check_shards(shards: Sequence[Path], corrections: Corrections) -> Checked:
    """Check every row of the shards. Raises UserInputError for a shard that can't be read."""
    parts: list[_Part] = []
    faults: Faults = {}
    for number, path in enumerate(shards):
        for start, batch in shard_batches(path):
            parts.append(_check(batch, number, start, corrections, faults))
    ids = pa.chunked_array([part.ids for part in parts], pa.large_string()).combine_chunks()
    _drop_doubled(parts, ids, faults)
    entries = Entries((part.shard, part.usable) for part in parts)
    corrected = pa.array(sorted(corrections.ids), pa.large_string())
    known = corrected.filter(pc.is_in(corrected, value_set=ids)) if len(corrected) else corrected
    return Checked(entries, faults, frozenset(known.to_pylist()))


def _check(
    batch: pa.RecordBatch, shard: int, start: int, corrections: Corrections, faults: Faults
) -> _Part:
    """Check some rows of a shard, after a person's corrections; adds to `faults`."""
    apart = pa.array(sorted(corrections.ids), pa.string())
    plain, usable = plain_rows(batch, start, apart)
    if plain.all():
        ids = usable.column("id").cast(pa.large_string())
        return _Part(shard, usable, np.arange(start, start + len(ids)), ids)
    names = np.empty(batch.num_rows, object)
    names[plain] = usable.column("id").to_numpy(zero_copy_only=False)
    readable = np.ones(batch.num_rows, bool)
    doubtful = np.flatnonzero(~plain).tolist()
    entries: list[Entry] = []
    for at, values in zip(doubtful, values_of(batch, doubtful), strict=True):
        if isinstance(values, RowError):
            faults[shard, start + at] = "", values
            readable[at] = False
            continue
        name = names[at] = str(values["id"] or "")
        if name in corrections.dropped:
            continue
        try:
            entries.append(entry_of(corrections.row(values), shard, start + at))
        except RowError as error:
            faults[shard, start + at] = name, error
    if entries:
        both = pa.Table.from_batches([usable, block_of(entries)], ENTRIES).sort_by("row")
        usable = both.combine_chunks().to_batches()[0]
    rows = start + np.flatnonzero(readable)
    return _Part(shard, usable, rows, pa.array(names[readable], pa.large_string()))


def _drop_doubled(parts: Sequence[_Part], ids: pa.Array, faults: Faults) -> None:
    """Of rows with the same id the first keeps it, even a faulty one; the others become faults."""
    codes = ids.dictionary_encode().indices.to_numpy()  # in the order of their first occurrence
    before = np.maximum.accumulate(np.concatenate([[-1], codes]))[:-1]
    gone: defaultdict[int, list[int]] = defaultdict(list)
    ends = np.cumsum([len(part.rows) for part in parts])
    for place in np.flatnonzero(codes <= before).tolist():
        number = int(np.searchsorted(ends, place, side="right"))
        part = parts[number]
        row = int(part.rows[place - int(ends[number]) + len(part.rows)])
        name = ids[place].as_py()
        gone[number].append(row)
        faults[part.shard, row] = name, RowError("duplicate_id", f"id {name!r} occurred before")
    for number, rows in gone.items():
        usable = parts[number].usable
        kept = pc.invert(pc.is_in(usable.column("row"), value_set=pa.array(rows, pa.int32())))
        parts[number].usable = usable.filter(kept)


# A pool of samples of unknown quality: an index of its usable rows, and their images on demand.
#
# What is wrong with one row puts that row in quarantine; what is wrong with a file or the whole pool
# is a UserInputError. See docs/data.md.


@dataclass(frozen=True)
class PoolIndex:
    """The usable rows of a pool in order; the images are still unread."""

    folder: Path
    shards: tuple[Path, ...]
    entries: Sequence[Entry]
    quarantine: Quarantine
    corrections: Corrections = NONE
    corrected: Mapping[str, int] = field(default_factory=dict)

    def within(self, horizon_s: float | None) -> list[Entry]:
        """The rows whose clip is not longer than `horizon_s`."""
        if horizon_s is None:
            return list(self.entries)
        return rows_of(self.entries, Entries.of(self.entries).column("span_s") <= horizon_s)

    def with_ids(self, ids: Collection[str]) -> list[Entry]:
        """The rows with these ids."""
        names = pa.array(Entries.of(self.entries).column("id"), pa.string())
        wanted = pc.is_in(names, value_set=pa.array(sorted(ids), pa.string()))
        return rows_of(self.entries, wanted.to_numpy(zero_copy_only=False))

    def load(
        self, entries: Iterable[Entry], *, max_pixels: int, quarantine: Quarantine
    ) -> Iterator[Sample]:
        """The samples of `entries` in the order of the pool; bad images go to `quarantine`."""
        wanted: dict[int, dict[int, Entry]] = {}
        for entry in entries:
            wanted.setdefault(entry.shard, {})[entry.row] = entry
        check = ImageChecker(max_pixels)
        for shard in sorted(wanted):
            path, rows = self.shards[shard], wanted[shard]
            for row, values in shard_rows(path, set(rows)):
                try:
                    if isinstance(values, RowError):
                        raise values
                    values = self.corrections.row(values)
                    images = [
                        {"bytes": check(image_bytes(image, self._root))}
                        for image in values["images"]
                    ]
                    sample = sample_from_row({**values, "images": images})
                except RowError as error:
                    quarantine.add(path.name, row, rows[row].id, error)
                else:
                    yield sample

    @property
    def _root(self) -> Path:
        return self.folder if self.folder.is_dir() else self.folder.parent


@dataclass
class Pool:
    """Samples that passed every check, and what did not."""

    samples: list[Sample]
    quarantine: Quarantine
    beyond_horizon: int = 0


def read_index(folder: Path, corrections: Corrections = NONE) -> PoolIndex:
    """Check every row but its images. Raises UserInputError for an unreadable or an empty pool.

    A person's corrections come first, so that a corrected row is checked as any other is.
    """
    shards = tuple(shard_paths(folder))
    checked = check_shards(shards, corrections)
    quarantine = Quarantine()
    for (shard, row), (name, error) in sorted(checked.faults.items(), key=itemgetter(0)):
        quarantine.add(shards[shard].name, row, name, error)
    if not checked.entries:
        raise UserInputError(no_sample(folder, quarantine))
    counts = corrections.counts(checked.known)
    return PoolIndex(folder, shards, checked.entries, quarantine, corrections, counts)


def load_pool(
    folder: Path,
    *,
    max_pixels: int,
    horizon_s: float | None = None,
    ids: Collection[str] | None = None,
    corrections: Corrections = NONE,
) -> Pool:
    """The samples below `folder`, or those of `ids`, checked, with images of at most `max_pixels`.

    A clip longer than the horizon is left out and counted, not cut: its answer may lie in the
    part that would be cut off.
    """
    index = read_index(folder, corrections)
    entries = list(index.entries) if ids is None else index.with_ids(ids)
    within = [e for e in entries if horizon_s is None or e.span_s <= horizon_s]
    quarantine = Quarantine(list(index.quarantine.rows))
    samples = list(index.load(within, max_pixels=max_pixels, quarantine=quarantine))
    beyond = len(entries) - len(within)
    if not samples and (ids is None or ids):
        raise UserInputError(no_sample(folder, quarantine, beyond))
    return Pool(samples, quarantine, beyond)


def no_sample(folder: Path, quarantine: Quarantine, beyond: int = 0) -> str:
    """The sentence about a pool without a usable sample."""
    why = [f"{count} x {code}" for code, count in quarantine.counts.items()]
    why += [f"{beyond} beyond the horizon"] if beyond else []
    detail = f" ({', '.join(why)}; first: {quarantine.rows[0]})" if quarantine.rows else ""
    if not detail:
        detail = f" ({why[0]})" if why else ""
    return f"pool {folder} holds no usable sample{detail}; check the recipe's data section"


# What preflight says about one pool, after reading all of it.


@dataclass
class PoolReport:
    """What preflight says about one pool."""

    folder: str
    samples: int = 0
    clips: int = 0
    longest_s: float = 0.0
    beyond_horizon: int = 0
    families: Counter[str] = field(default_factory=Counter)
    dimensions: Counter[str] = field(default_factory=Counter)
    splits: Counter[str] = field(default_factory=Counter)
    quarantine: Quarantine = field(default_factory=Quarantine)
    corrected: Mapping[str, int] = field(default_factory=dict)

    def summary(self) -> dict[str, Any]:
        """As JSON, with the first quarantined rows."""
        return {
            "folder": self.folder,
            "samples": self.samples,
            "clips": self.clips,
            "longest_s": self.longest_s,
            "beyond_horizon": self.beyond_horizon,
            "families": dict(sorted(self.families.items())),
            "dimensions": dict(sorted(self.dimensions.items())),
            "splits": dict(sorted(self.splits.items())),
            "quarantined": self.quarantine.counts,
            "quarantine": self.quarantine.notes(),
            "corrected": dict(self.corrected),
        }


def check_pool(
    folder: Path,
    *,
    max_pixels: int,
    horizon_s: float | None = None,
    images: bool = True,
    corrections: Corrections = NONE,
) -> PoolReport:
    """Read a whole pool and keep none of it. `images=False` leaves the images undecoded."""
    index = read_index(folder, corrections)
    quarantine = Quarantine(list(index.quarantine.rows))
    bad: set[str] = set()
    if images:
        good = index.load(index.entries, max_pixels=max_pixels, quarantine=quarantine)
        usable = sum(1 for _ in good)
        bad = {row.id for row in quarantine.rows[len(index.quarantine) :]}
        if not usable:
            raise UserInputError(no_sample(folder, quarantine))
    report = PoolReport(str(folder), quarantine=quarantine, corrected=index.corrected)
    for entry in index.entries:
        if entry.id in bad:
            continue
        report.samples += 1
        report.clips += entry.clip
        report.longest_s = max(report.longest_s, entry.span_s)
        report.beyond_horizon += horizon_s is not None and entry.span_s > horizon_s
        report.families[entry.family.value] += 1
        report.dimensions[entry.dimension.value] += 1
        report.splits[entry.split.value] += 1
    return report
