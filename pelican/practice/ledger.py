"""The ledger: per sample, loop and phase how hard it was, and for which policy.

Within loop k the row of phase rl was measured before RL, that of phase sft after RL and before
SFT; so RL lies between (k, rl) and (k, sft), and SFT between (k, sft) and (k + 1, rl).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import polars as pl

from pelican.data.tables import LEDGER
from pelican.records import LedgerRow, Phase

KEY = ("sample_id", "loop", "phase")
SOLVED = 0.5  # a success rate from which a sample counts as solved
_ORDER = {Phase.BASE.value: 0, Phase.RL.value: 1, Phase.SFT.value: 2}


def ledger_table(rates: pl.DataFrame, loop: int, phase: Phase, policy: str) -> pl.DataFrame:
    """The rows of one loop and phase; `policy` is the digest of what was rolled out."""
    return rates.with_columns(
        pl.lit(loop, dtype=pl.Int32).alias("loop"),
        pl.lit(phase.value).alias("phase"),
        pl.lit(policy).alias("policy"),
    ).select(LEDGER.names)


def ledger_rows(table: pl.DataFrame) -> Iterator[LedgerRow]:
    """The rows of a ledger as checked records."""
    return (LedgerRow.model_validate(row) for row in table.iter_rows(named=True))


def read_ledgers(paths: Iterable[Path]) -> pl.DataFrame:
    """The ledgers of a run as one, in time; of rows with the same KEY the last file's stands."""
    tables = [pl.read_parquet(path) for path in paths]
    if not tables:
        return pl.DataFrame(schema=dict.fromkeys(LEDGER.names, pl.String))
    joined = pl.concat(tables, how="vertical_relaxed")
    return joined.unique(list(KEY), keep="last", maintain_order=True).sort(
        "loop", _phase_order(), "sample_id"
    )


def history(ledger: pl.DataFrame, sample_id: str) -> pl.DataFrame:
    """The rows of one sample, in time."""
    return ledger.filter(pl.col("sample_id") == sample_id).sort("loop", _phase_order())


def transitions(ledger: pl.DataFrame, teacher: pl.DataFrame | None = None) -> pl.DataFrame:
    """What became of a sample between two neighbouring measurements, one row each.

    Columns: sample_id, family, loop and `by` (the phase that lay between: rl or sft), before and
    after (success rates), transition:
    - solved_by_rl, solved_by_sft: from below `SOLVED` to at least it;
    - solved_after_teacher: the same, by SFT, of a sample that was weak (SR = 0) and was taught;
    - forgotten: from at least `SOLVED` to below it;
    - teacher_failed: weak, unsolved, and the teacher had no accepted answer either;
    - still_solved, still_unsolved.
    `teacher`, if given: sample_id, loop, accepted (one row per weak sample or per try); without it
    every weak sample counts as taught. A sample that was not measured in both has no row.
    """
    step = pl.col("loop") * 2 + (pl.col("phase") == Phase.SFT.value).cast(pl.Int32)
    rows = ledger.filter(pl.col("phase") != Phase.BASE.value).with_columns(step.alias("step"))
    later = rows.select(
        "sample_id", (pl.col("step") - 1).alias("step"), pl.col("success_rate").alias("after")
    )
    pairs = rows.join(later, on=["sample_id", "step"], how="inner")
    weak = (pl.col("phase") == Phase.SFT.value) & (pl.col("success_rate") == 0)
    if teacher is None:
        pairs = pairs.with_columns(weak.alias("taught"))
    else:
        taught = teacher.group_by("sample_id", "loop").agg(pl.col("accepted").any().alias("taught"))
        taught = taught.with_columns(pl.col("loop").cast(pl.Int32))
        pairs = pairs.join(taught, on=["sample_id", "loop"], how="left").with_columns(
            (weak & pl.col("taught").fill_null(False)).alias("taught")
        )
    was, now = pl.col("success_rate") >= SOLVED, pl.col("after") >= SOLVED
    by_rl = pl.col("phase") == Phase.RL.value
    kind = (
        pl.when(was & now)
        .then(pl.lit("still_solved"))
        .when(was)
        .then(pl.lit("forgotten"))
        .when(now & by_rl)
        .then(pl.lit("solved_by_rl"))
        .when(now & pl.col("taught"))
        .then(pl.lit("solved_after_teacher"))
        .when(now)
        .then(pl.lit("solved_by_sft"))
        .when(weak & ~pl.col("taught"))
        .then(pl.lit("teacher_failed"))
        .otherwise(pl.lit("still_unsolved"))
    )
    return pairs.select(
        "sample_id",
        "family",
        "loop",
        pl.col("phase").alias("by"),
        pl.col("success_rate").alias("before"),
        "after",
        kind.alias("transition"),
    ).sort("loop", "by", "sample_id")


def _phase_order() -> pl.Expr:
    return pl.col("phase").replace_strict(_ORDER, return_dtype=pl.Int8)
