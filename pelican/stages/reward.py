"""Reward: every rollout gets its score; one Parquet shard of scores per shard of rollouts."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import polars as pl

from pelican.base.process import in_order
from pelican.data.tables import pool_columns, questions, read_rows, write_rows
from pelican.errors import UserInputError
from pelican.monitoring import record
from pelican.records import Rollout, Sample, Score
from pelican.rewards import PARSE_FAILURES, Judge, judge_of, judge_workers, score
from pelican.stages.runner import StageContext


def run(context: StageContext) -> None:
    """Inputs rollouts and pool; writes `scores-*.parquet`. A shard that is there is not made again."""
    if context.rank:
        return  # one process scores 0.5 million samples in minutes
    shards = sorted(context.input("rollouts").glob("rollouts-*.parquet"))
    if not shards:
        where = context.spec.inputs["rollouts"]
        raise UserInputError(f"input {where!r} holds no rollouts-*.parquet; run the rollout stage")
    pool = pool_columns(context.input("pool"), corrections=context.corrections())
    judge = judge_of(context.recipe.reward, training=False, store=context.store)
    written = []
    for done, shard in enumerate(shards, 1):
        name = shard.name.replace("rollouts-", "scores-", 1)
        key = f"{context.spec.output}/{name}"
        if not context.store.exists(key):
            write_rows(context.output(name), _scores(context, shard, pool, judge), Score)
            context.put(name)
        written.append(context.store.local(key))
        context.progress(done, len(shards), "shards")
    _measure(context, written, pool)
    context.judged(judge)


def _scores(
    context: StageContext, shard: Path, pool: pl.DataFrame, judge: Judge | None
) -> Sequence[Score]:
    """The scores of one shard of rollouts, in its order."""
    rollouts = list(read_rows([shard], Rollout))
    wanted = pl.Series("id", list({rollout.sample_id for rollout in rollouts}), dtype=pl.String)
    samples: dict[str, Sample] = {
        sample.id: sample for sample in questions(pool.join(wanted.to_frame(), on="id", how="semi"))
    }
    for rollout in rollouts:
        if rollout.sample_id not in samples:
            raise UserInputError(
                f"{shard.name} answers sample {rollout.sample_id!r}, which is not in the pool"
                f" {context.spec.inputs['pool']!r}; rollouts and pool are of different runs"
            )
    config = context.spec.rewards
    seed = flip_seed(context.recipe.seed, context.spec.loop)

    def one(rollout: Rollout) -> Score:
        sample = samples[rollout.sample_id]
        return score(
            sample, rollout.completion, config, index=rollout.index, seed=seed, judge=judge
        )

    scores = list(in_order(one, rollouts, judge_workers(config, judge)))
    for sample_id, group in groupby(scores, key=lambda score: score.sample_id):
        record.scored(samples[sample_id].family.value, list(group))
    return scores


def flip_seed(seed: int, loop: int) -> int:
    """Other rewards are flipped in every loop: noise, not a wrong label for good."""
    return 1000 * seed + 2 * loop


def _measure(context: StageContext, paths: Sequence[Path], pool: pl.DataFrame) -> None:
    """Counts and metrics over all shards, also those of an earlier try."""
    scores = pl.scan_parquet(list(paths))
    families = pool.lazy().select(pl.col("id").alias("sample_id"), "family")
    means = [pl.col(name).mean() for name in ("reward", "success", "format", "think_chars")]
    overall = scores.select(pl.len(), pl.col("success").sum().alias("successes"), *means).collect()
    reasons = (
        scores.filter(pl.col("reason") != "")
        .group_by(pl.col("reason").str.split(":").list.first())
        .len()
        .sort("reason")
        .collect()
    )
    by_family = (
        scores.join(families, on="sample_id")
        .group_by("family")
        .agg(*means)
        .sort("family")
        .collect()
    )
    row = overall.row(0, named=True)
    context.counts.update(rollouts=row["len"], successes=row["successes"], parse_failures=0)
    for reason, count in reasons.iter_rows():
        context.counts[f"reason/{reason}"] += count
        if reason in PARSE_FAILURES:
            context.counts["parse_failures"] += count
    if row["len"]:
        context.metric("mean_reward", round(row["reward"], 12))
        context.metric("success_rate", row["success"])
        context.metric("format_rate", row["format"])
        context.metric("mean_think_chars", row["think_chars"])
    for family in by_family.iter_rows(named=True):
        # The order of the sum depends on the shards: what is beyond 12 digits is noise.
        context.metric(f"reward/{family['family']}", round(family["reward"], 12))
        context.metric(f"success_rate/{family['family']}", round(family["success"], 12))
