"""Reward: every rollout gets its score; one Parquet shard of scores per shard of rollouts."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import polars as pl

from pelican.base.process import in_order
from pelican.config.recipe import Recipe, RewardConfig
from pelican.data.frames import whole
from pelican.data.tables import pool_columns, questions, read_rows, write_rows
from pelican.errors import UserInputError
from pelican.monitoring import record
from pelican.records import Rollout, Sample, Score
from pelican.rewards import PARSE_FAILURES, Judge, judge_workers, score
from pelican.stages.job import StageJob
from pelican.stages.stage import Inputs, StageResult


def run(inputs: Inputs, config: Recipe, job: StageJob) -> StageResult:
    """Inputs rollouts and pool; writes `scores-*.parquet`. A shard that is there is not made again."""
    result = StageResult()
    if job.rank:
        return result  # one process scores 0.5 million samples in minutes
    shards = sorted(inputs["rollouts"].glob("rollouts-*.parquet"))
    if not shards:
        where = inputs.place("rollouts")
        raise UserInputError(f"input {where!r} holds no rollouts-*.parquet; run the rollout stage")
    pool = pool_columns(inputs["pool"], corrections=inputs.corrections())
    judge = job.judge(config.reward)
    seed = flip_seed(config.seed, job.loop)
    written = []
    for done, shard in enumerate(shards, 1):
        name = shard.name.replace("rollouts-", "scores-", 1)
        if not job.has(name):
            rollouts = list(read_rows([shard], Rollout))
            samples = _samples(shard.name, rollouts, pool, inputs.place("pool"))
            scores = _scores(rollouts, samples, config.reward, seed, judge)
            write_rows(job.output(name), scores, Score)
            job.put(name)
        written.append(job.local(name))
        job.progress(done, len(shards), "shards")
    with whole(*written):
        _measure(result, written, pool)
    result.add_judge(judge)
    return result


def _samples(
    shard: str, rollouts: Sequence[Rollout], pool: pl.DataFrame, place: str
) -> dict[str, Sample]:
    """The samples that a shard of rollouts answers. Raises UserInputError if the pool lacks one.

    Args:
        shard: its name, for the message.
        rollouts: its rows.
        pool: the columns of the pool.
        place: where the pool lies, for the message.
    """
    wanted = pl.Series("id", list({rollout.sample_id for rollout in rollouts}), dtype=pl.String)
    samples = {
        sample.id: sample for sample in questions(pool.join(wanted.to_frame(), on="id", how="semi"))
    }
    for rollout in rollouts:
        if rollout.sample_id not in samples:
            raise UserInputError(
                f"{shard} answers sample {rollout.sample_id!r}, which is not in the pool"
                f" {place!r}; rollouts and pool are of different runs"
            )
    return samples


def _scores(
    rollouts: Sequence[Rollout],
    samples: dict[str, Sample],
    config: RewardConfig,
    seed: int,
    judge: Judge | None,
) -> Sequence[Score]:
    """The scores of rollouts, in their order; `seed` is of the flips."""

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
    """The seed of the ablation `reward.flip` in one loop.

    It differs from loop to loop, so that flips act as noise and no sample keeps a wrong label.
    """
    return 1000 * seed + 2 * loop


def _measure(result: StageResult, paths: Sequence[Path], pool: pl.DataFrame) -> None:
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
    result.counts.update(rollouts=row["len"], successes=row["successes"], parse_failures=0)
    for reason, count in reasons.iter_rows():
        result.counts[f"reason/{reason}"] += count
        if reason in PARSE_FAILURES:
            result.counts["parse_failures"] += count
    if row["len"]:
        result.add_metric("mean_reward", round(row["reward"], 12))
        result.add_metric("success_rate", row["success"])
        result.add_metric("format_rate", row["format"])
        result.add_metric("mean_think_chars", row["think_chars"])
    for family in by_family.iter_rows(named=True):
        # The order of the sum depends on the shards: what is beyond 12 digits is noise.
        result.add_metric(f"reward/{family['family']}", round(family["reward"], 12))
        result.add_metric(f"success_rate/{family['family']}", round(family["success"], 12))
