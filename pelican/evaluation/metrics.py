"""Scores with bootstrap intervals, and paired differences of two result sets.

A score is 100 x the mean task reward. The *embodied score* is a macro average: the mean over the
task families of each family's mean, so a family with many questions weighs no more than another.
Intervals are percentiles of a bootstrap that draws whole scenes, because questions about one scene
succeed and fail together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pelican.frozen import Frozen

Floats = NDArray[np.float64]
LEVEL = 0.95
_CHUNK_CELLS = 4_000_000  # resamples x scenes held at once


class Estimate(Frozen):
    """A score of 0 … 100 with its 95 % interval; `n` questions from `scenes` scenes."""

    score: float
    low: float
    high: float
    n: int
    scenes: int
    chance: float = 0.0


class Difference(Frozen):
    """After minus before on the same `n` questions, in points, with its paired 95 % interval.

    Resamples draw scenes: of one scene the interval is a point, and certain of nothing.
    """

    delta: float
    low: float
    high: float
    n: int
    scenes: int = 0  # not counted in results of before it was

    @property
    def better(self) -> bool:
        """The whole interval lies above zero."""
        return self.low > 0

    @property
    def worse(self) -> bool:
        """The whole interval lies below zero."""
        return self.high < 0


@dataclass(frozen=True)
class GroupMeans:
    """Means per group: `point` (groups,) and `draws` (resamples, groups), NaN where none drawn.

    `counts` and `scenes` (groups,): values, and scenes that they come from; `all_scenes` of all.
    """

    names: list[str]
    point: Floats
    draws: Floats
    counts: NDArray[np.int64]
    scenes: NDArray[np.int64]
    all_scenes: int

    def macro(self) -> tuple[float, float, float]:
        """Mean over the groups, and its 95 % interval."""
        return (float(self.point.mean()), *_interval(np.nanmean(self.draws, axis=1)))

    def group(self, name: str) -> tuple[float, float, float]:
        """One group's mean, and its 95 % interval."""
        index = self.names.index(name)
        return (float(self.point[index]), *_interval(self.draws[:, index]))


def bootstrap_means(
    values: Floats,
    groups: Sequence[str] | NDArray[np.str_],
    scenes: Sequence[str] | NDArray[np.str_],
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> GroupMeans:
    """Mean of `values` per group over bootstrap resamples of whole scenes."""
    names, group = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    _, scene = np.unique(np.asarray(scenes, dtype=str), return_inverse=True)
    shape = (int(scene.max()) + 1, len(names))
    cell = np.ravel_multi_index((scene, group), shape)
    size = shape[0] * shape[1]
    sums = np.bincount(cell, weights=values, minlength=size).reshape(shape)
    counts = np.bincount(cell, minlength=size).reshape(shape).astype(np.float64)
    draws = [
        _ratio(weights @ sums, weights @ counts)
        for weights in _scene_weights(shape[0], resamples, seed)
    ]
    total = counts.sum(axis=0)
    return GroupMeans(
        names=names.tolist(),
        point=sums.sum(axis=0) / total,
        draws=np.concatenate(draws),
        counts=total.astype(np.int64),
        scenes=(counts > 0).sum(axis=0),
        all_scenes=shape[0],
    )


def _scene_weights(scenes: int, resamples: int, seed: int) -> Iterator[Floats]:
    """How often each resample draws each scene, (chunk, scenes) at a time."""
    generator = np.random.default_rng(seed)
    chunk = max(1, min(resamples, _CHUNK_CELLS // scenes))
    for start in range(0, resamples, chunk):
        rows = min(chunk, resamples - start)
        drawn = generator.integers(0, scenes, (rows, scenes))
        drawn += np.arange(rows)[:, None] * scenes
        weights = np.bincount(drawn.ravel(), minlength=rows * scenes)
        yield weights.reshape(rows, scenes).astype(np.float64)


def _ratio(sums: Floats, counts: Floats) -> Floats:
    out: Floats = np.full_like(sums, np.nan)
    return np.divide(sums, counts, out=out, where=counts > 0)


def _interval(draws: Floats) -> tuple[float, float]:
    tail = (1 - LEVEL) / 2
    low, high = np.nanquantile(draws, [tail, 1 - tail])
    return float(low), float(high)


def estimate(
    frame: pl.DataFrame, by: str | None, *, resamples: int, seed: int
) -> tuple[Estimate, dict[str, Estimate]]:
    """The macro average over the groups of column `by` (none: one group), and every group."""
    groups = _column(frame, by)
    scenes = frame["scene"].to_numpy()
    means = bootstrap_means(
        100 * frame["task"].to_numpy(), groups, scenes, resamples=resamples, seed=seed
    )
    chance = {
        name: 100 * float(frame["chance"].to_numpy()[groups == name].mean()) for name in means.names
    }
    per_group: dict[str, Estimate] = {}
    for name in means.names:
        score, low, high = means.group(name)
        per_group[name] = Estimate(
            score=score,
            low=low,
            high=high,
            n=int((groups == name).sum()),
            scenes=len(set(scenes[groups == name])),
            chance=chance[name],
        )
    score, low, high = means.macro()
    whole = Estimate(
        score=score,
        low=low,
        high=high,
        n=len(frame),
        scenes=frame["scene"].n_unique(),
        chance=sum(chance.values()) / len(chance),
    )
    return whole, per_group


def paired(before: pl.DataFrame, after: pl.DataFrame) -> pl.DataFrame:
    """The questions that both result sets answered, with `delta` = 100 x (after - before)."""
    old = before.select("suite", "sample_id", task_before="task")
    return after.join(old, on=["suite", "sample_id"], how="inner").with_columns(
        delta=100 * (pl.col("task") - pl.col("task_before"))
    )


def difference(
    pairs: pl.DataFrame, by: str | None, *, resamples: int, seed: int
) -> tuple[Difference, dict[str, Difference]]:
    """The paired difference of the macro averages over column `by`, and of every group."""
    means = bootstrap_means(
        pairs["delta"].to_numpy(),
        _column(pairs, by),
        pairs["scene"].to_numpy(),
        resamples=resamples,
        seed=seed,
    )
    per_group = {
        name: _difference(means.group(name), int(n), int(scenes))
        for name, n, scenes in zip(means.names, means.counts, means.scenes, strict=True)
    }
    return _difference(means.macro(), len(pairs), means.all_scenes), per_group


def total_difference(
    steps: Sequence[tuple[pl.DataFrame, pl.DataFrame]], by: str, *, resamples: int, seed: int
) -> Difference | None:
    """The sum of several (before, after) differences, such as what all RL phases gained."""
    total: pl.DataFrame | None = None
    for before, after in steps:
        step = paired(before, after).select("suite", "sample_id", "scene", by, "delta")
        if total is None:
            total = step
            continue
        more = step.select("suite", "sample_id", more="delta")
        total = total.join(more, on=["suite", "sample_id"], how="inner")
        total = total.with_columns(delta=pl.col("delta") + pl.col("more")).drop("more")
    if total is None or total.is_empty():
        return None
    return difference(total, by, resamples=resamples, seed=seed)[0]


def _difference(numbers: tuple[float, float, float], n: int, scenes: int) -> Difference:
    delta, low, high = numbers
    return Difference(delta=delta, low=low, high=high, n=n, scenes=scenes)


def _column(frame: pl.DataFrame, by: str | None) -> NDArray[Any]:
    if by is None:
        return np.full(len(frame), "all")
    return np.asarray(frame[by].to_list(), dtype=str)


def mean_of(frame: pl.DataFrame, column: str) -> float:
    """Mean of a numeric column; 0 of an empty frame."""
    return float(frame[column].cast(pl.Float64).to_numpy().mean()) if len(frame) else 0.0
