"""Filter: success rates, the ledger, what to practise (buffer) and what to be taught (weak set)."""

from __future__ import annotations

import polars as pl

from pelican.data.tables import pool_columns
from pelican.dppo.difficulty import FILES, rates_of, write_tables
from pelican.errors import UserInputError
from pelican.stages.runner import StageContext
from pelican.stages.stage import input_digest


def run(context: StageContext) -> None:
    """Inputs scores, pool and policy; writes `ledger.parquet`, `buffer.parquet`, `weak.parquet`.

    Both phases write all three; RL takes the buffer, SFT the weak set.
    """
    if context.rank:
        return
    spec = context.spec
    columns = ("id", "family", "dimension", "source")
    pool = pool_columns(context.input("pool"), columns, context.corrections())
    scores = sorted(context.input("scores").glob("scores-*.parquet"))
    if not scores:
        where = spec.inputs["scores"]
        raise UserInputError(f"input {where!r} holds no scores-*.parquet; run the reward stage")
    if "policy" not in spec.inputs:
        raise UserInputError("the filter stage needs the input 'policy', which the ledger names")
    rates = rates_of(scores, pool)
    context.progress(1, 2, "tables")
    policy = input_digest(context.store, spec.inputs["policy"])
    seed = 1000 * context.recipe.seed + spec.loop  # else every loop drew the same of equal samples
    buffer, weak = write_tables(
        context.output(),
        rates,
        context.recipe.filter,
        seed,
        loop=spec.loop,
        phase=spec.phase,
        policy=policy,
    )
    for name in FILES:
        context.put(name)
    context.progress(2, 2, "tables")
    context.counts.update(buffer.counts, weak=weak)
    if buffer.rows.is_empty():
        counts = buffer.counts
        context.notes["buffer"] = (
            f"the buffer is empty: of {counts['samples']} samples {counts['mastered']} are mastered"
            f" and {counts['intractable']} intractable, so RL has nothing to practise and is skipped"
        )
    _measure(context, rates)


def _measure(context: StageContext, rates: pl.DataFrame) -> None:
    if rates.is_empty():
        return
    context.metric("mean_success_rate", rates.select(pl.col("success_rate").mean()).item())
    by_family = rates.group_by("family").agg(pl.col("success_rate").mean())
    for family, rate in by_family.sort("family").iter_rows():
        context.metric(f"success_rate/{family}", rate)
