"""An import: rows of a source are converted in parallel and become a new version of a pool.

An import that was cut off goes on when the same command is given again.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter, deque
from collections.abc import Callable, Iterator, Set
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pelican.base.files import replacing, resolve_below
from pelican.base.parse import parse_json
from pelican.data.formats.base import Found, Options, Reader, Record, Source, Unread
from pelican.data.importing.convert import Bad, Defaults, Good, convert
from pelican.data.importing.media import Loader
from pelican.data.importing.shards import (
    MAX_BYTES,
    MAX_ROWS,
    counts_of,
    read_columns,
    write_card,
    write_labels,
    write_shard,
)
from pelican.data.tables import RowError
from pelican.data.versions import (
    QUARANTINE,
    Imported,
    Shard,
    Version,
    commit,
    link_or_copy,
    lock_versions,
    read_current,
    read_quarantine,
    shard_of,
)
from pelican.errors import UserInputError

# Rows of the source that the pool has not yet: converted in parallel, given in their order.

BATCH = 16  # stills in one task of a worker, because starting a task costs as much as one decode
HELD = 8 << 20  # bytes of pictures inside its rows, above which a batch is full


@dataclass(frozen=True)
class Plan:
    """What an import is to do. `settings` are the options as given, for the data card."""

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
    def total(self) -> int:
        return self.good + self.kept + self.quarantined.total()


def convert_rows(
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
    held = 0
    for found in rows:
        batch.append(found)
        media = found.media if isinstance(found, Record) else ()
        held += sum(len(medium.data) for medium in media if medium.data)
        if len(batch) == BATCH or held > HELD or any(m.kind != "image" for m in media):
            yield batch
            batch, held = [], 0
    if batch:
        yield batch


def _fresh(
    plan: Plan, source: Source, keys: Set[str], left_out: Set[str], tally: Tally
) -> Iterator[Found]:
    """Rows that must still be converted; a row that is twice in the source is an `Unread` the second time.

    Args:
        keys: Of rows that the pool or a finished chunk has.
        left_out: Of rows that a finished chunk has in quarantine.
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


# The import itself.
#
# After a kill the same command keeps the finished chunks. After the source was mended it tries the
# rows again that were left out: only rows that the pool holds are skipped, by the digest of the row.


@dataclass(frozen=True)
class Result:
    """The version that the pool is now; `changed` is False if nothing was to do."""

    version: Version
    tally: Tally
    changed: bool


def run_import(plan: Plan, pool: Path, progress: Callable[[Tally], None]) -> Result:
    """Import a source into a pool. Raises UserInputError; a row's fault is quarantined instead."""
    source = Source(plan.where)
    with lock_versions(pool) as folder:
        before = read_current(pool)
        with Work(folder / ".import", _identity(plan, source, before)) as work:
            tally = Tally()
            _fill(work, plan, source, pool if before else None, tally, progress)
            return _finish(plan, source, pool, work, before, tally)


def _fill(
    work: Work,
    plan: Plan,
    source: Source,
    pool: Path | None,
    tally: Tally,
    progress: Callable[[Tally], None],
) -> None:
    """Convert what neither the pool nor a finished chunk has."""
    keys, ids = _known(pool, work)
    left_out = {bad.key: bad.code for bad in work.quarantined()}
    tally.quarantined.update(left_out.values())
    for row in convert_rows(plan, source, keys, left_out.keys(), tally):
        if isinstance(row, Good):
            tally.good += 1
            name = row.sample.id
            if hash(name) in ids:  # sources number their files' rows from 0 each
                name = f"{name}~{row.key[:8]}"
                row = replace(row, sample=row.sample.model_copy(update={"id": name}))
            ids.add(hash(name))
        else:
            tally.quarantined[row.code] += 1
        work.add(row)
        progress(tally)
    work.commit()


def _identity(plan: Plan, source: Source, before: Version | None) -> dict[str, Any]:
    """What must be the same for chunks of an import that was cut off to be kept."""
    return {
        "source": str(Path(plan.where).absolute()),
        "fingerprint": source.fingerprint() if source.path.exists() else "",
        "reader": plan.reader.name,
        "settings": plan.settings,
        "limit": plan.limit,
        "parent": before.id if before else None,
    }


def _known(pool: Path | None, work: Work) -> tuple[set[str], set[int]]:
    """Keys of rows that are good already, and ids that are taken (by hash: there may be millions)."""
    keys: set[str] = set()
    ids: set[int] = set()
    shards = sorted(pool.glob("*.parquet")) if pool else []
    shards += [path for path, _ in work.shards()]
    for row in read_columns(shards, ["id", "key"]):
        keys.add(str(row["key"]))
        ids.add(hash(row["id"]))
    return keys, ids


def _finish(
    plan: Plan, source: Source, pool: Path, work: Work, before: Version | None, tally: Tally
) -> Result:
    """Put the new version together out of the pool's shards and the chunks'."""
    where = str(Path(plan.where).absolute()) if source.path.exists() else plan.where
    origin = {"source": where, "reader": plan.reader.name}
    left_out = {bad.key: {**origin, **asdict(bad)} for bad in work.quarantined()}
    old = [] if before is None else list(read_quarantine(pool))
    # Rows of versions before "reader" was kept count as this one's.
    mine: list[dict[str, str]] = []
    others: list[dict[str, str]] = []
    for row in old:
        (mine if {**origin, **row}.items() >= origin.items() else others).append(row)
    shards = work.shards()
    if before is None and not shards:
        codes = ", ".join(f"{n} x {code}" for code, n in sorted(tally.quarantined.items()))
        first = next(iter(left_out.values()), None)
        why = f" ({codes}; first: {first['place']}: {first['reason']})" if first else ""
        work.remove()  # what is mended must be tried again
        raise UserInputError(
            f"{plan.where} holds no usable row for the reader {plan.reader.name}{why}"
        )
    if before is not None and not shards:
        same = {row["key"] for row in mine} == left_out.keys()
        if same:
            work.remove()
            return Result(before, tally, changed=False)
    staged = work.folder.with_name(".new")
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir()
    merged = []
    for shard in before.shards if before else ():
        link_or_copy(resolve_below(pool, shard.name), resolve_below(staged, shard.name))
        merged.append(shard)
    for path, shard in shards:
        name = f"part-{len(merged):05d}.parquet"
        link_or_copy(path, staged / name)
        merged.append(shard.model_copy(update={"name": name}))
    with (staged / QUARANTINE).open("w", encoding="utf-8") as file:
        for row in [*others, *left_out.values()]:
            file.write(json.dumps(row) + "\n")
    this = Imported(
        path=where,
        reader=plan.reader.name,
        fingerprint=source.fingerprint() if source.path.exists() else "",
        rows=sum(shard.rows for _, shard in shards),
        quarantined=dict(sorted(Counter(row["code"] for row in left_out.values()).items())),
    )
    version = Version(
        id="",
        parent=before.id if before else None,
        made=datetime.now(UTC).isoformat(timespec="seconds"),
        sources=_sources(before, this),
        settings=plan.settings,
        shards=tuple(merged),
        rows=sum(shard.rows for shard in merged),
        quarantined=len(others) + len(left_out),
        counts=counts_of([staged / shard.name for shard in merged]),
    )
    write_labels(staged, version)
    write_card(staged, pool.name, version)
    done = commit(pool, staged, version)
    work.remove()
    return Result(done, tally, changed=True)


def _sources(before: Version | None, this: Imported) -> tuple[Imported, ...]:
    """One entry a source and reader; a second import of the same adds to its rows."""
    earlier = list(before.sources) if before else []
    same = [e for e in earlier if (e.path, e.reader) == (this.path, this.reader)]
    rows = this.rows + sum(entry.rows for entry in same)
    kept = [entry for entry in earlier if entry not in same]
    return (*kept, this.model_copy(update={"rows": rows}))


# Chunks of an unfinished import on disk; a chunk counts once its JSON file, written last, is there.

PLAN = "plan.json"
MAX_BAD = 5000  # quarantined rows of a chunk


class Work:
    """The folder of chunks, and the rows of the chunk that is being filled. To be used in `with`."""

    def __init__(self, folder: Path, plan: dict[str, Any]) -> None:
        """Chunks of the same plan are kept; those of another command or source are dropped."""
        self.folder = folder
        plan = parse_json(json.dumps(plan, default=str))
        try:
            same = parse_json((folder / PLAN).read_text()) == plan
        except (OSError, ValueError):
            same = False
        if not same:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            _write(folder / PLAN, plan)
        self._finished = [
            parse_json(path.read_text()) for path in sorted(folder.glob("chunk-*.json"))
        ]
        self._good: list[Good] = []
        self._bad: list[Bad] = []
        self._bytes = 0
        # Rows are converted on while a chunk is written; one at a time, which bounds the memory.
        self._writer = ThreadPoolExecutor(1)
        self._writing: Future[dict[str, Any]] | None = None

    def __enter__(self) -> Work:
        return self

    def __exit__(self, *_: object) -> None:
        """Without waiting for more than the chunk that is being written."""
        self._writer.shutdown()

    def shards(self) -> list[tuple[Path, Shard]]:
        found = [Shard.model_validate(c["shard"]) for c in self._finished if c["shard"]]
        return [(resolve_below(self.folder, shard.name), shard) for shard in found]

    def quarantined(self) -> Iterator[Bad]:
        for chunk in self._finished:
            for row in chunk["quarantined"]:
                yield Bad(**row)

    def add(self, row: Good | Bad) -> None:
        """Commits the chunk when it is full."""
        if isinstance(row, Good):
            self._good.append(row)
            self._bytes += sum(len(image) for image in row.sample.images)
        else:
            self._bad.append(row)
        full = len(self._good) >= MAX_ROWS or self._bytes >= MAX_BYTES
        if full or len(self._bad) >= MAX_BAD:
            self._start()

    def commit(self) -> None:
        """Write what was added since the last time; returns when it is on disk."""
        self._start()
        self._wait()

    def _start(self) -> None:
        self._wait()
        if self._good or self._bad:
            number = len(self._finished)
            self._writing = self._writer.submit(self._save, number, self._good, self._bad)
            self._good, self._bad, self._bytes = [], [], 0

    def _wait(self) -> None:
        if self._writing is not None:
            self._finished.append(self._writing.result())
            self._writing = None

    def _save(self, number: int, good: list[Good], bad: list[Bad]) -> dict[str, Any]:
        shard = None
        if good:
            path = self.folder / f"chunk-{number:05d}.parquet"
            write_shard(path, good)
            shard = shard_of(path, len(good)).model_dump()
        chunk = {"shard": shard, "quarantined": [asdict(row) for row in bad]}
        _write(self.folder / f"chunk-{number:05d}.json", chunk)
        return chunk

    def remove(self) -> None:
        shutil.rmtree(self.folder)


def _write(path: Path, value: object) -> None:
    with replacing(path) as file:
        file.write_text(json.dumps(value))
