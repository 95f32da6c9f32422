"""All rows of a pool checked but for their images: by columns, and one by one where in doubt."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pelican.data.corrections import Corrections
from pelican.data.entries import ENTRIES, Entries, block_of
from pelican.data.entry import Entry, entry_of
from pelican.data.plain import plain_rows
from pelican.data.quarantine import RowError
from pelican.data.rows import shard_batches, values_of

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
    named = pa.array(sorted(corrections.ids), pa.large_string())
    known = named.filter(pc.is_in(named, value_set=ids)) if len(named) else named
    return Checked(entries, faults, frozenset(known.to_pylist()))


def _check(
    batch: pa.RecordBatch, shard: int, start: int, corrections: Corrections, faults: Faults
) -> _Part:
    """What is doubtful is checked one by one, as a person corrected it; adds to `faults`."""
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
    """Of rows with one id the first keeps it, good or not; the others are faults."""
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
