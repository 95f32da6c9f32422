"""Success rates: SR(c) = (1/T) * sum of 1[success] over the T rollouts of a sample."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate, groupby
from pathlib import Path

import numpy as np
import polars as pl

from pelican.errors import UserInputError

_AT_ONCE = 1 << 19  # bytes of files: some 200,000 rollouts


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
    """As `success_rates`, if the rollouts of a sample stand together, numbered upwards; else None.

    So the reward stage writes them. Then no id need be hashed for each of its rollouts, and none
    is there twice.
    """
    with ThreadPoolExecutor(min(2, pl.thread_pool_size())) as readers:
        parts = list(readers.map(_sums_of_runs, _few_at_once(files)))
    found = [part for part in parts if part is not None]
    if not found or len(found) < len(parts):
        return None
    sums = pl.concat(found)
    ids = sums["sample_id"]
    if _rising(ids):
        sums = sums.with_columns(pl.col("sample_id").set_sorted())
    elif ids.n_unique() < len(ids):
        return None
    return _rates(sums.lazy()).sort("sample_id").collect()


def _few_at_once(files: Sequence[Path]) -> list[list[Path]]:
    """Files in their order, so many together that reading them is worth a call."""
    ends = accumulate(path.stat().st_size for path in files)
    numbered = zip(files, ends, strict=True)
    return [[f for f, _ in part] for _, part in groupby(numbered, lambda one: one[1] // _AT_ONCE)]


def _sums_of_runs(files: Sequence[Path]) -> pl.DataFrame | None:
    scores = _scores(files).collect()
    if scores.is_empty() or any(scores.null_count().row(0)):
        return None
    ids, index = scores["sample_id"], scores["index"].to_numpy()
    begins = ids.ne_missing(ids.shift()).to_numpy()
    if not (begins[1:] | (index[1:] > index[:-1])).all():
        return None
    starts = np.flatnonzero(begins)
    counts = np.diff(starts, append=len(scores))
    successes = scores["success"].to_numpy().view(np.uint8)
    return pl.DataFrame(
        {
            "sample_id": ids.gather(starts),
            "successes": np.add.reduceat(successes, starts, dtype=np.int64),
            "mean_reward": np.add.reduceat(scores["reward"].to_numpy(), starts) / counts,
            "rollouts": counts,
            "doubled": np.zeros(len(starts), np.int64),
        }
    )


def _rising(ids: pl.Series) -> bool:
    """Each is above the one before it, so no two are equal."""
    return bool((ids.slice(1) > ids.head(-1)).all())


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
    if about["sample_id"].is_sorted():  # as the rates are: then they are merged, not hashed
        about = about.with_columns(pl.col("sample_id").set_sorted())
    plain = rates.lazy().drop(
        "doubled"
    )  # lazily, for else polars does not see that both are sorted
    merged = plain.join(about.lazy(), on="sample_id", how="left", maintain_order="left")
    joined = merged.collect()
    unknown = joined.filter(pl.col("family").is_null())
    if len(unknown):
        raise UserInputError(
            f"{len(unknown)} scored samples are not in the pool, such as"
            f" {unknown['sample_id'][0]!r}; scores and pool are of different runs"
        )
    return joined
