"""Success rates: SR(c) = (1/T) * sum of 1[success] over the T rollouts of a sample."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from pelican.errors import UserInputError
from pelican.practice.runs import sums_of_runs


def success_rates(scores: pl.LazyFrame) -> pl.LazyFrame:
    """One row per sample, by id: success_rate, mean_reward, rollouts (T), outcome, doubled.

    `doubled` counts rollouts that occur twice. Means are rounded to 9 digits, so that the order in
    which threads add does not show in a digest.
    """
    sums = scores.group_by("sample_id").agg(
        pl.col("success").sum().alias("successes"),
        pl.col("reward").mean().alias("mean_reward"),
        pl.len().alias("rollouts"),
        (pl.len() - pl.col("index").n_unique()).alias("doubled"),
    )
    return _rates(sums).sort("sample_id")


def _rates(sums: pl.LazyFrame) -> pl.LazyFrame:
    successes, count = pl.col("successes"), pl.col("rollouts")
    outcome = (
        pl.when(successes == count)
        .then(pl.lit("mastered"))
        .when(successes == 0)
        .then(pl.lit("intractable"))
        .otherwise(pl.lit("practice"))
    )
    return sums.select(
        "sample_id",
        (successes / count).alias("success_rate"),
        pl.col("mean_reward").round(9),
        count.cast(pl.Int32),
        outcome.alias("outcome"),
        "doubled",
    )


def rates_of_runs(files: Sequence[Path]) -> pl.DataFrame | None:
    """As `success_rates`, if the rollouts of a sample stand together, numbered upwards; else None."""
    sums = sums_of_runs(_scores(files))
    return None if sums is None else _rates(sums.lazy()).sort("sample_id").collect()


def _scores(files: Sequence[Path]) -> pl.LazyFrame:
    return pl.scan_parquet(list(files)).select("sample_id", "index", "reward", "success")


def rates_of(score_files: Sequence[Path], pool: pl.DataFrame) -> pl.DataFrame:
    """Success rates with the samples' family, dimension and source.

    `pool` has the columns id, family, dimension and source. Raises UserInputError for a rollout
    that was scored twice, or for a score whose sample is not in the pool.
    """
    rates = rates_of_runs(score_files)
    if rates is None:
        rates = success_rates(_scores(score_files)).collect()
    doubled = rates.filter(pl.col("doubled") > 0)
    if len(doubled):
        raise UserInputError(
            f"{len(doubled)} samples have a rollout that was scored twice, such as"
            f" {doubled['sample_id'][0]!r}; delete the reward stage's output and run it again"
        )
    about = pool.select(pl.col("id").alias("sample_id"), "family", "dimension", "source")
    joined = _with_columns_of(about, rates.drop("doubled"))
    unknown = joined.filter(pl.col("family").is_null())
    if len(unknown):
        raise UserInputError(
            f"{len(unknown)} scored samples are not in the pool, such as"
            f" {unknown['sample_id'][0]!r}; scores and pool are of different runs"
        )
    return joined


def _with_columns_of(about: pl.DataFrame, rates: pl.DataFrame) -> pl.DataFrame:
    """The rates, by id, with the columns of a pool; null where it has no such sample."""
    if about["sample_id"].equals(rates["sample_id"]):  # the whole pool was rolled out
        return rates.hstack(about.drop("sample_id"))
    if about["sample_id"].is_sorted():  # as the rates are: then they are merged, not hashed
        about = about.with_columns(pl.col("sample_id").set_sorted())
    merged = rates.lazy().join(about.lazy(), on="sample_id", how="left", maintain_order="left")
    # Only the streaming engine merges; the other one hashes, in three times the time.
    return merged.collect(engine="streaming")
