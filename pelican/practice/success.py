"""Success rates: SR(c) = (1/T) * sum of 1[success] over the T rollouts of a sample."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from pelican.errors import UserInputError


def success_rates(scores: pl.LazyFrame) -> pl.LazyFrame:
    """One row per sample, by id: success_rate, mean_reward, rollouts (T), outcome, doubled.

    `doubled` counts rollouts that occur twice. Means are rounded to 9 digits, so that the order in
    which threads add does not show in a digest.
    """
    successes, count = pl.col("success").sum(), pl.len()
    outcome = (
        pl.when(successes == count)
        .then(pl.lit("mastered"))
        .when(successes == 0)
        .then(pl.lit("intractable"))
        .otherwise(pl.lit("practice"))
    )
    return (
        scores.group_by("sample_id")
        .agg(
            (successes / count).alias("success_rate"),
            pl.col("reward").mean().round(9).alias("mean_reward"),
            count.cast(pl.Int32).alias("rollouts"),
            outcome.alias("outcome"),
            (count - pl.col("index").n_unique()).alias("doubled"),
        )
        .sort("sample_id")
    )


def rates_of(score_files: Sequence[Path], pool: pl.DataFrame) -> pl.DataFrame:
    """Success rates with the samples' family, dimension and source.

    `pool` has the columns id, family, dimension and source. Raises UserInputError for a rollout
    that was scored twice, or for a score whose sample is not in the pool.
    """
    scores = pl.scan_parquet(list(score_files)).select("sample_id", "index", "reward", "success")
    rates = success_rates(scores).collect()
    doubled = rates.filter(pl.col("doubled") > 0)
    if len(doubled):
        raise UserInputError(
            f"{len(doubled)} samples have a rollout that was scored twice, such as"
            f" {doubled['sample_id'][0]!r}; delete the reward stage's output and run it again"
        )
    about = pool.select(pl.col("id").alias("sample_id"), "family", "dimension", "source")
    joined = rates.drop("doubled").join(about, on="sample_id", how="left", maintain_order="left")
    unknown = joined.filter(pl.col("family").is_null())
    if len(unknown):
        raise UserInputError(
            f"{len(unknown)} scored samples are not in the pool, such as"
            f" {unknown['sample_id'][0]!r}; scores and pool are of different runs"
        )
    return joined
