"""Rollout: the policy answers every sample of the loop T times; one Parquet shard at a time."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from pelican.data.pool import Entry, read_index
from pelican.data.quarantine import Quarantine, QuarantineRow
from pelican.data.select import loop_samples
from pelican.data.tables import write_rows, write_table
from pelican.engines import Engine, open_engine
from pelican.recipe import digest_of
from pelican.records import Phase, Rollout
from pelican.stages.base import StageContext
from pelican.telemetry import record

SELECTION = pa.schema(
    [
        ("sample_id", pa.string()),
        ("family", pa.string()),
        ("dimension", pa.string()),
        ("shard", pa.int32()),
    ]
)


def run(context: StageContext) -> None:
    """Inputs policy and pool; writes `rollouts-*.parquet` and `selection.parquet`.

    Every rank takes the shards of its turn. A shard that is there already is not made again.
    """
    spec, recipe = context.spec, context.recipe
    index = read_index(context.input("pool"))
    entries = loop_samples(index, recipe, spec.loop, spec.phase)
    size = recipe.rollout.shard_size
    shards = [entries[i : i + size] for i in range(0, len(entries), size)]
    if context.rank == 0:
        _write_selection(context, shards)
        _count_quarantine(context, index.quarantine.rows)
    weak_mining = spec.phase is Phase.SFT
    tries = recipe.rollout.weak_samples if weak_mining else recipe.rollout.samples
    mine = range(context.rank, len(shards), context.world_size)
    total = tries * sum(len(shards[number]) for number in mine)
    engine: Engine | None = None
    done, generated, began = 0, 0, time.monotonic()
    for number in mine:
        if (facts := _finished(context, number)) is None:
            engine = engine or _open(context)
            rows: list[Rollout] = []
            quarantine = Quarantine()
            shard, pixels = shards[number], recipe.data.max_pixels
            with record.timed("data"):
                samples = list(index.load(shard, max_pixels=pixels, quarantine=quarantine))
            seed = phase_seed(recipe.seed, spec.loop, spec.phase)
            groups = engine.generate(samples, recipe.rollout.sampling, tries, seed)
            for group in record.timed_each("generate", groups if samples else ()):
                rows += group
                record.generated(group)
                generated += len(group)
                rate = generated / max(1e-9, time.monotonic() - began)
                context.progress(min(done + len(rows), total - 1), total, "rollouts", rate=rate)
            facts = _commit(context, number, rows, quarantine)
        done += tries * len(shards[number])
        context.counts.update(facts["counts"])
        _count_quarantine(context, [QuarantineRow(**row) for row in facts["quarantine"]])
        context.progress(done, total, "rollouts")
    if engine is not None:
        engine.close()


def phase_seed(seed: int, loop: int, phase: Phase) -> int:
    """The seed of one phase's rollouts; an engine adds the sample's id and the rollout's index."""
    return int(digest_of([seed, loop, phase.value]), 16) >> 1


def _open(context: StageContext) -> Engine:
    recipe = context.recipe
    return open_engine(recipe.rollout, recipe.model, context.input("policy"))


def _shard_name(number: int) -> str:
    return f"rollouts-{number:05d}.parquet"


def _facts_key(context: StageContext, number: int) -> str:
    return f"{context.spec.output}/work/shard-{number:05d}.json"


def _finished(context: StageContext, number: int) -> dict[str, Any] | None:
    """What was noted of a shard when it ended, or None if it has to be made."""
    try:
        facts: dict[str, Any] = json.loads(context.store.read(_facts_key(context, number)))
    except KeyError:
        return None
    there = context.store.exists(f"{context.spec.output}/{_shard_name(number)}")
    return facts if there else None


def _commit(
    context: StageContext, number: int, rows: Sequence[Rollout], quarantine: Quarantine
) -> dict[str, Any]:
    """Write the shard, then what is known about it: with that it counts as finished."""
    path = context.output(_shard_name(number))
    write_rows(path, rows, Rollout)
    context.store.put(f"{context.spec.output}/{path.name}", path)
    counts = Counter(
        samples=len({row.sample_id for row in rows}),
        rollouts=len(rows),
        tokens=sum(row.tokens for row in rows),
        truncated=sum(row.finish == "length" for row in rows),
    )
    facts = {"counts": dict(counts), "quarantine": quarantine.notes(len(quarantine))}
    context.store.write(_facts_key(context, number), json.dumps(facts).encode())
    return facts


def _count_quarantine(context: StageContext, rows: Sequence[QuarantineRow]) -> None:
    """Count rows by code and keep the first 200 for the report."""
    quarantine = Quarantine(list(rows))
    context.counts.update({f"quarantined_{code}": n for code, n in quarantine.counts.items()})
    kept = context.notes.setdefault("quarantine", [])
    kept += quarantine.notes(200 - len(kept))


def _write_selection(context: StageContext, shards: Sequence[Sequence[Entry]]) -> None:
    """The subset of this loop and phase, for the later stages and the report."""
    rows = [
        {
            "sample_id": entry.id,
            "family": entry.family.value,
            "dimension": entry.dimension.value,
            "shard": number,
        }
        for number, shard in enumerate(shards)
        for entry in shard
    ]
    path = context.output("selection.parquet")
    write_table(path, pa.Table.from_pylist(rows, schema=SELECTION))
    context.store.put(f"{context.spec.output}/{path.name}", path)


__all__ = ["SELECTION", "phase_seed", "run"]
