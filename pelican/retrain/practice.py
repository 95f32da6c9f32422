"""Diagnosis and practice set: is there a weakness, and what do the loops train on against it?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from pelican.data.entry import Entry
from pelican.data.pool import PoolIndex, read_index
from pelican.data.quarantine import Quarantine
from pelican.data.select import shuffled, stratified
from pelican.recipe import Recipe, RetrainConfig
from pelican.records import Split
from pelican.retrain.copying import copy_rows
from pelican.retrain.records import Weakness
from pelican.storage.objects import ObjectStore

WEAKNESS = "weakness.json"


@dataclass(frozen=True)
class Sources:
    """The pools that a practice set is made of."""

    new_train: Path
    new_held: Path
    old_train: list[Path]
    old_held: list[Path]
    ledgers: list[Path]


def diagnose(ledger: pl.DataFrame, config: RetrainConfig) -> Weakness:
    """What the diagnosis' ledger says: go on if enough samples are weak, in number and share."""
    weak = ledger.filter(pl.col("success_rate") < config.weak_below)
    share = len(weak) / max(1, len(ledger))
    go_on = len(weak) >= config.min_weak and share >= config.min_weak_share
    mean = float(ledger["success_rate"].to_numpy().mean()) if len(ledger) else 0.0
    found = (
        f"{len(weak)} of {len(ledger)} diagnosed samples ({100 * share:.1f} %) have a success rate"
        f" below {config.weak_below:g}, the mean is {mean:.2f}"
    )
    wanted = f"{config.min_weak} and {100 * config.min_weak_share:g} % are reason to train"
    return Weakness(
        go_on=go_on,
        reason=f"{found}; {wanted}",
        diagnosed=len(ledger),
        mastered=len(ledger.filter(pl.col("outcome") == "mastered")),
        weak=len(weak),
        share=share,
        mean_success_rate=mean,
        weak_by_family={
            str(family): int(n) for family, n in weak.group_by("family").len().sort("family").rows()
        },
    )


def compose(
    store: ObjectStore,
    found: Weakness,
    ledger: pl.DataFrame,
    sources: Sources,
    recipe: Recipe,
    prefix: str,
) -> Weakness:
    """Write `<prefix>/train` (new rows not mastered, replay of the old) and `<prefix>/evaluation`.

    The evaluation pool holds every old held-out set and the new one, so that one evaluation
    answers both questions of the gate.
    """
    max_pixels, salt = recipe.data.max_pixels, f"replay:{recipe.seed}"
    lost = Quarantine()
    mastered = set(ledger.filter(pl.col("outcome") == "mastered")["sample_id"])
    index = read_index(sources.new_train)
    new = [entry for entry in index.entries if entry.id not in mastered]
    copied = copy_rows(
        store, index, new, f"{prefix}/train/new", max_pixels=max_pixels, quarantine=lost
    )
    wanted = round(recipe.retrain.replay * len(copied))
    hard = _once_hard(sources.ledgers)
    replayed, taken = 0, {entry.id for entry in index.entries}
    pools = [read_index(folder) for folder in sources.old_train]
    for number, (pool, part) in enumerate(zip(pools, _parts(pools, wanted), strict=True)):
        rows = [e for e in pool.entries if e.split is Split.TRAIN and e.id not in taken]
        entries = replay(rows, hard, part, salt)
        taken |= {entry.id for entry in entries}
        shard = f"{prefix}/train/old-{number:03d}"
        replayed += len(
            copy_rows(store, pool, entries, shard, max_pixels=max_pixels, quarantine=lost)
        )
    held, seen = 0, set[str]()
    for number, folder in enumerate([sources.new_held, *sources.old_held]):
        pool = read_index(folder)
        entries = [entry for entry in pool.entries if entry.id not in seen]
        seen |= {entry.id for entry in entries}
        shard = f"{prefix}/evaluation/set-{number:03d}"
        held += len(copy_rows(store, pool, entries, shard, max_pixels=max_pixels, quarantine=lost))
    return found.model_copy(
        update={
            "new_rows": len(copied),
            "replayed_rows": replayed,
            "held_rows": held,
            "left_out": lost.counts,
        }
    )


def replay(entries: Sequence[Entry], hard: set[str], size: int, salt: str) -> list[Entry]:
    """`size` earlier rows, stratified by family: first those that were once not mastered.

    What was learned is what can be forgotten; what was always mastered fills up.
    """
    ordered = shuffled(entries, salt)
    learned = [entry for entry in ordered if entry.id in hard]
    chosen = stratified(learned, size)
    taken = {entry.id for entry in chosen}
    rest = [entry for entry in ordered if entry.id not in taken]
    return [*chosen, *stratified(rest, size - len(chosen))] if size > len(chosen) else chosen


def _parts(pools: Sequence[PoolIndex], size: int) -> list[int]:
    """`size` divided over the pools by their rows."""
    total = max(1, sum(len(pool.entries) for pool in pools))
    return [min(len(pool.entries), round(size * len(pool.entries) / total)) for pool in pools]


def _once_hard(ledgers: Sequence[Path]) -> set[str]:
    """Samples that an earlier ledger has with a success rate below 1."""
    frames = [pl.read_parquet(path, columns=["sample_id", "success_rate"]) for path in ledgers]
    if not frames:
        return set()
    return set(pl.concat(frames).filter(pl.col("success_rate") < 1)["sample_id"])
