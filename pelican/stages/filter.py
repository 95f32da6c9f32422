"""Filter: from scores to success rates, the ledger, the practice buffer and the weak set."""

from __future__ import annotations

import polars as pl

from pelican.config.recipe import Recipe
from pelican.data.tables import pool_columns
from pelican.dppo.difficulty import FILES, rates_of, without_guesses, write_tables
from pelican.errors import UserInputError
from pelican.stages.job import StageJob
from pelican.stages.stage import Inputs, StageResult


def run(inputs: Inputs, config: Recipe, job: StageJob) -> StageResult:
    """Inputs scores, pool and policy; writes `ledger.parquet`, `buffer.parquet`, `weak.parquet`.

    Both phases write all three; RL takes the buffer, SFT the weak set.
    """
    result = StageResult()
    if job.rank:
        return result
    columns = ["id", "family", "dimension", "source"]
    if config.filter.chance_p is not None:
        columns.append("chance")
    pool = pool_columns(inputs["pool"], tuple(columns), inputs.corrections())
    scores = sorted(inputs["scores"].glob("scores-*.parquet"))
    if not scores:
        where = inputs.place("scores")
        raise UserInputError(f"input {where!r} holds no scores-*.parquet; run the reward stage")
    if "policy" not in inputs:
        raise UserInputError("the filter stage needs the input 'policy', which the ledger names")
    rates = rates_of(scores, pool)
    if config.filter.chance_p is not None:
        rates = without_guesses(rates, pool, config.filter.chance_p)
        guessed = (pl.col("outcome") == "intractable") & (pl.col("success_rate") > 0)
        result.counts["guessed"] = rates.filter(guessed).height
    job.progress(1, 2, "tables")
    policy = inputs.digest("policy")
    seed = 1000 * config.seed + job.loop  # else every loop drew the same of equal samples
    buffer, weak = write_tables(
        job.output(),
        rates,
        config.filter,
        seed,
        loop=job.loop,
        phase=job.phase,
        policy=policy,
    )
    for name in FILES:
        job.put(name)
    job.progress(2, 2, "tables")
    result.counts.update(buffer.counts, weak=weak)
    if buffer.rows.is_empty():
        counts = buffer.counts
        result.notes["buffer"] = (
            f"the buffer is empty: of {counts['samples']} samples {counts['mastered']} are mastered"
            f" and {counts['intractable']} intractable, so RL has nothing to practise and is skipped"
        )
    _measure(result, rates)
    return result


def _measure(result: StageResult, rates: pl.DataFrame) -> None:
    if rates.is_empty():
        return
    result.add_metric("mean_success_rate", rates.select(pl.col("success_rate").mean()).item())
    by_family = rates.group_by("family").agg(pl.col("success_rate").mean())
    for family, rate in by_family.sort("family").iter_rows():
        result.add_metric(f"success_rate/{family}", rate)
