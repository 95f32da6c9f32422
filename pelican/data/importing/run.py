"""An import: the rows of a source that the pool has not yet, converted side by side.

After a kill the same command keeps the finished chunks. After mending it tries again what was left
out: only rows that the pool holds, told by the digest of what stands in the source, are passed over.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pelican.data.importing.card import counts_of, write_card, write_labels
from pelican.data.importing.convert import Good
from pelican.data.importing.flow import Plan, Tally, converted
from pelican.data.importing.shards import read_columns
from pelican.data.importing.work import Work
from pelican.data.readers.source import Source
from pelican.data.versions import (
    QUARANTINE,
    Imported,
    Version,
    commit,
    current,
    link_or_copy,
    locked,
    read_quarantine,
)
from pelican.errors import UserInputError


@dataclass(frozen=True)
class Result:
    """The version that the pool is now; `changed` is False if nothing was to do."""

    version: Version
    tally: Tally
    changed: bool


def run_import(plan: Plan, pool: Path, progress: Callable[[Tally], None]) -> Result:
    """Import a source into a pool. Raises UserInputError; a row's fault is quarantined instead."""
    source = Source(plan.where)
    with locked(pool) as folder:
        before = current(pool)
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
    for row in converted(plan, source, keys, left_out.keys(), tally):
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
    named = []
    for shard in before.shards if before else ():
        link_or_copy(pool / shard.name, staged / shard.name)
        named.append(shard)
    for path, shard in shards:
        name = f"part-{len(named):05d}.parquet"
        link_or_copy(path, staged / name)
        named.append(shard.model_copy(update={"name": name}))
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
        shards=tuple(named),
        rows=sum(shard.rows for shard in named),
        quarantined=len(others) + len(left_out),
        counts=counts_of([staged / shard.name for shard in named]),
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
