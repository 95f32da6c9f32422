"""A stage's work in parts: each is answered by one rank, and a part that is there is not made again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from pelican.monitoring import record
from pelican.stages.job import StageJob

_POLL_S = 0.5
Row = TypeVar("Row")


class _Closes(Protocol):
    def close(self) -> None: ...


Costly = TypeVar("Costly", bound=_Closes)


@dataclass(frozen=True)
class Parts(Generic[Row]):
    """Files `work/<name>-<number>.parquet`; `sizes`: the samples of each part."""

    job: StageJob
    name: str
    sizes: Sequence[int]
    write: Callable[[Path, Sequence[Row]], None]

    def answer(self, rows_of: Callable[[int], Iterable[Row]]) -> None:
        """This rank's parts, but those that are there from before. `rows_of`: the rows of one."""
        job = self.job
        mine = range(job.rank, len(self.sizes), job.world_size)
        total = sum(self.sizes[number] for number in mine)
        done, answered, began = 0, 0, time.monotonic()
        for number in mine:
            if not job.has(self._file(number)):
                rows: list[Row] = []
                for row in rows_of(number):
                    rows.append(row)
                    answered += 1
                    rate = answered / max(1e-9, time.monotonic() - began)
                    job.progress(min(done + len(rows), total - 1), total, "samples", rate=rate)
                self.write(job.output(self._file(number)), rows)
                job.put(self._file(number))
            done += self.sizes[number]
            job.progress(done, total, "samples")

    def files(self) -> Iterator[Path]:
        """The parts of all ranks in order, each as soon as it is there."""
        for number in range(len(self.sizes)):
            while not self.job.has(self._file(number)):
                record.waited()
                with record.timed("wait"):
                    time.sleep(_POLL_S)  # of another rank; if it fails, its launcher ends us too
            yield self.job.local(self._file(number))

    def _file(self, number: int) -> str:
        return f"work/{self.name}-{number:05d}.parquet"


@contextmanager
def when_needed(make: Callable[[], Costly]) -> Iterator[Callable[[], Costly]]:
    """A function that makes what is costly at its first call; it is closed, if it was made."""
    made: list[Costly] = []

    def get() -> Costly:
        if not made:
            made.append(make())
        return made[0]

    try:
        yield get
    finally:
        for found in made:
            found.close()
