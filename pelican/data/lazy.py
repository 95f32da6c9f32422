"""Samples of a pool whose images are read shortly before they are needed, and dropped afterwards.

So a host's memory does not grow with the pool: at most `cache_bytes` of encoded images are kept.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import overload

from pelican.data.entries import Entry
from pelican.data.pool import PoolIndex
from pelican.data.tables import Quarantine
from pelican.errors import UserInputError
from pelican.records import Sample

CACHE_BYTES = 2 << 30
AHEAD = 32  # samples


class LazySamples(Sequence[Sample]):
    """The samples of `entries` by number.

    `order` lists the numbers that will be asked for, so that a thread can read ahead; any other number
    may be asked for, too. A sample that can't be read any more raises UserInputError.
    """

    def __init__(
        self,
        index: PoolIndex,
        entries: Sequence[Entry],
        *,
        max_pixels: int,
        order: Sequence[int] = (),
        cache_bytes: int = CACHE_BYTES,
        ahead: int = AHEAD,
    ) -> None:
        self._index, self.entries = index, list(entries)
        self._max_pixels, self._cache_bytes, self._ahead = max_pixels, cache_bytes, ahead
        self._order = list(order)
        self._places: dict[int, list[int]] = {}
        for place, number in enumerate(self._order):
            self._places.setdefault(number, []).append(place)
        self._at = 0  # places of `order` before it were asked for
        self._kept: OrderedDict[int, Sample] = OrderedDict()
        self._coming: dict[int, Future[Sample]] = {}
        self._size = 0
        self._lock = threading.Lock()
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="samples")

    def __len__(self) -> int:
        return len(self.entries)

    @overload
    def __getitem__(self, number: int) -> Sample: ...
    @overload
    def __getitem__(self, number: slice) -> Sequence[Sample]: ...
    def __getitem__(self, number: int | slice) -> Sample | Sequence[Sample]:
        if isinstance(number, slice):
            return [self[i] for i in range(len(self))[number]]
        number = range(len(self))[number]
        with self._lock:
            self._look_ahead(number)
            if (kept := self._kept.get(number)) is not None:
                self._kept.move_to_end(number)
                return kept
            coming = self._request(number)
        return coming.result()

    @property
    def bytes(self) -> int:
        """Bytes of the encoded images that are kept now."""
        return self._size

    def _look_ahead(self, number: int) -> None:
        """Ask for what follows `number` in the order."""
        place = next((p for p in self._places.get(number, ()) if p >= self._at), None)
        if place is None:
            return
        self._at = place + 1
        for following in self._order[self._at : self._at + self._ahead]:
            if following not in self._kept:
                self._request(following)

    def _request(self, number: int) -> Future[Sample]:
        if number not in self._coming:
            self._coming[number] = self._reader.submit(self._read, number)
        return self._coming[number]

    def _read(self, number: int) -> Sample:
        entry, quarantine = self.entries[number], Quarantine()
        try:
            found = list(
                self._index.load([entry], max_pixels=self._max_pixels, quarantine=quarantine)
            )
            if not found:
                raise UserInputError(f"sample {entry.id!r} can't be read: {quarantine.rows[0]}")
        except BaseException:
            with self._lock:
                del self._coming[number]  # asked for again, it is tried again
            raise
        with self._lock:
            self._kept[number] = found[0]
            self._size += _size(found[0])
            while self._size > self._cache_bytes and len(self._kept) > 1:
                self._size -= _size(self._kept.popitem(last=False)[1])
            del self._coming[number]
        return found[0]


def _size(sample: Sample) -> int:
    return sum(len(image) for image in sample.images)
