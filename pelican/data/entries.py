"""The usable rows of a pool as columns: 1.3 million take some 150 MB, as objects five times that."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, repeat
from typing import Any, overload

import pyarrow as pa

from pelican.data.entry import KINDS, Entry
from pelican.records import Dimension, Family, Split

FAMILY, DIMENSION, SPLIT = tuple(Family), tuple(Dimension), tuple(Split)
# Names of a closed set are kept by their number in it.
_CODED: dict[str, tuple[Any, ...]] = {
    "family": FAMILY,
    "dimension": DIMENSION,
    "split": SPLIT,
    "answer_kind": KINDS,
}
ENTRIES = pa.schema(
    [
        ("id", pa.string()),
        ("family", pa.int8()),
        ("dimension", pa.int8()),
        ("span_s", pa.float64()),
        ("scene", pa.string()),
        ("split", pa.int8()),
        ("source", pa.string()),
        ("question", pa.string()),
        ("answer_kind", pa.int8()),
        ("clip", pa.bool_()),
        ("row", pa.int32()),
    ]
)
_SLICE = 4096  # rows made into objects at once


class Entries(Sequence[Entry]):
    """Rows in the order of the pool; an `Entry` is made whenever one is asked for.

    `blocks`: the number of a shard, and rows of it as columns of ENTRIES.
    """

    def __init__(self, blocks: Iterable[tuple[int, pa.RecordBatch]]) -> None:
        self._blocks = [(shard, block) for shard, block in blocks if block.num_rows]
        self._ends = list(accumulate(block.num_rows for _, block in self._blocks))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __iter__(self) -> Iterator[Entry]:
        return self._between(0, len(self))

    @overload
    def __getitem__(self, number: int) -> Entry: ...
    @overload
    def __getitem__(self, number: slice) -> tuple[Entry, ...]: ...
    def __getitem__(self, number: int | slice) -> Entry | tuple[Entry, ...]:
        if isinstance(number, slice):
            numbers = range(len(self))[number]
            if numbers.step == 1:
                return tuple(self._between(numbers.start, numbers.stop))
            return tuple(self[i] for i in numbers)
        at = range(len(self))[number]
        return next(self._between(at, at + 1))

    def _between(self, start: int, stop: int) -> Iterator[Entry]:
        for number in range(bisect_right(self._ends, start), len(self._blocks)):
            shard, block = self._blocks[number]
            begin = self._ends[number] - block.num_rows
            if begin >= stop:
                return
            last = min(stop - begin, block.num_rows)
            for at in range(max(start - begin, 0), last, _SLICE):
                yield from _objects(shard, block.slice(at, min(_SLICE, last - at)))


def block_of(entries: Sequence[Entry]) -> pa.RecordBatch:
    """Entries of one shard as columns."""
    columns: dict[str, list[Any]] = {}
    for name in ENTRIES.names:
        values = [getattr(entry, name) for entry in entries]
        columns[name] = [_CODED[name].index(v) for v in values] if name in _CODED else values
    return pa.RecordBatch.from_pydict(columns, schema=ENTRIES)


def _objects(shard: int, block: pa.RecordBatch) -> Iterator[Entry]:
    columns: dict[str, list[Any]] = {}
    for name in ENTRIES.names:
        values = block.column(name).to_numpy(zero_copy_only=False).tolist()
        columns[name] = [_CODED[name][v] for v in values] if name in _CODED else values
    rows = columns.pop("row")
    return map(Entry, *columns.values(), repeat(shard), rows)
