"""Filter: success rates, the ledger, what to practise (buffer) and what to be taught (weak set)."""

from __future__ import annotations

import polars as pl
import pyarrow as pa

from pelican.data.columns import pool_columns
from pelican.data.tables import LEDGER, write_table
from pelican.errors import UserInputError
from pelican.practice.buffer import BUFFER, build_buffer, weak_set
from pelican.practice.ledger import ledger_table
from pelican.practice.success import rates_of
from pelican.stages.context import StageContext
from pelican.stages.inputs import input_digest


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
    buffer = build_buffer(rates, context.recipe.filter, seed)
    weak = weak_set(rates)
    _write(context, "ledger.parquet", ledger_table(rates, spec.loop, spec.phase, policy), LEDGER)
    _write(context, "buffer.parquet", buffer.rows, BUFFER)
    _write(context, "weak.parquet", weak, BUFFER)
    context.progress(2, 2, "tables")
    context.counts.update(buffer.counts, weak=len(weak))
    if buffer.rows.is_empty():
        counts = buffer.counts
        context.notes["buffer"] = (
            f"the buffer is empty: of {counts['samples']} samples {counts['mastered']} are mastered"
            f" and {counts['intractable']} intractable, so RL has nothing to practise and is skipped"
        )
    _measure(context, rates)


def _write(context: StageContext, name: str, frame: pl.DataFrame, schema: pa.Schema) -> None:
    write_table(context.output(name), frame.to_arrow().cast(schema))
    context.put(name)


def _measure(context: StageContext, rates: pl.DataFrame) -> None:
    if rates.is_empty():
        return
    context.metric("mean_success_rate", rates.select(pl.col("success_rate").mean()).item())
    by_family = rates.group_by("family").agg(pl.col("success_rate").mean())
    for family, rate in by_family.sort("family").iter_rows():
        context.metric(f"success_rate/{family}", rate)
