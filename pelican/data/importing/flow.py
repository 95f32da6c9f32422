"""The rows of a source that are not done yet, converted side by side, in their order."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Set
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

from pelican.data.importing.convert import Bad, Defaults, Good, convert
from pelican.data.importing.media import Loader
from pelican.data.quarantine import RowError
from pelican.data.readers.base import Found, Options, Reader, Record, Unread
from pelican.data.readers.source import Source

BATCH = 16  # stills that a worker is handed at once: each handing over costs as much as a decode


@dataclass(frozen=True)
class Plan:
    """Everything that says what an import is to do. `settings`: the person's choices, for the card."""

    where: str
    reader: Reader
    options: Options
    loader: Loader
    defaults: Defaults
    settings: dict[str, Any]
    limit: int | None = None
    workers: int = 2


@dataclass
class Tally:
    """How far an import is. `kept`: rows that the pool or a finished chunk had before."""

    good: int = 0
    kept: int = 0
    quarantined: Counter[str] = field(default_factory=Counter)

    @property
    def seen(self) -> int:
        return self.good + self.kept + self.quarantined.total()


def converted(
    plan: Plan, source: Source, keys: Set[str], left_out: Set[str], tally: Tally
) -> Iterator[Good | Bad]:
    """Results in the order of the source. Two more batches than workers are held at most."""
    waiting: deque[Future[list[Good | Bad]]] = deque()

    def work(rows: list[Found]) -> list[Good | Bad]:
        return [convert(found, plan.loader, plan.defaults) for found in rows]

    with ThreadPoolExecutor(plan.workers) as workers:
        try:
            for batch in _batches(_fresh(plan, source, keys, left_out, tally)):
                waiting.append(workers.submit(work, batch))
                if len(waiting) > plan.workers + 1:
                    yield from waiting.popleft().result()
            while waiting:
                yield from waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _batches(rows: Iterator[Found]) -> Iterator[list[Found]]:
    """Stills BATCH at a time; a row with a video ends its batch, since its frames fill memory."""
    batch: list[Found] = []
    for found in rows:
        batch.append(found)
        moving = isinstance(found, Record) and any(m.kind != "image" for m in found.media)
        if moving or len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _fresh(
    plan: Plan, source: Source, keys: Set[str], left_out: Set[str], tally: Tally
) -> Iterator[Found]:
    """Records that are not done yet; one that stands twice in the source comes as a fault.

    `keys`: of rows that are good already; `left_out`: of those that a finished chunk left out.
    """
    name = plan.defaults.source  # two data sets may have the same row about other media
    seen: Counter[str] = Counter()
    for number, found in enumerate(plan.reader.read(source, plan.options)):
        if plan.limit is not None and number >= plan.limit:
            return
        found = replace(found, key=f"{found.key}@{name}")
        seen[found.key] += 1
        if seen[found.key] > 1:
            key = f"{found.key}+{seen[found.key]}"
            error = RowError("duplicate_id", "the same row stands in the source before")
            found = Unread(found.place, key, found.id, error)
        if found.key in keys:
            tally.kept += 1
        elif found.key not in left_out:
            yield found
