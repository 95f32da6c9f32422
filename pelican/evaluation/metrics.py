"""Held-out scores with intervals, paired differences, forgetting."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypedDict

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from pelican.base.model import Frozen
from pelican.data.frames import read_frame
from pelican.data.tables import write_table
from pelican.errors import UserInputError
from pelican.records import Rollout, Sample, Score

# `results.parquet`: one row for every held-out sample that a policy answered.

Suite = Literal["embodied", "general"]
SHORT_CLIP_S = 32.0  # the clips of loop 1; longer ones come from loop 2 on


class ResultRow(TypedDict):
    """`task` is the task reward in 0 … 1, `format` the format reward, `chance` blind guessing."""

    sample_id: str
    suite: str
    family: str
    dimension: str
    benchmark: str
    horizon: str
    scene: str
    task: float
    success: bool
    format: float
    tokens: int
    think_chars: int
    chance: float
    completion: str
    answer: str
    reason: str


_KINDS = {str: pa.string(), float: pa.float64(), bool: pa.bool_(), int: pa.int32()}
_TYPES: dict[str, type] = {
    "task": float,
    "success": bool,
    "format": float,
    "tokens": int,
    "think_chars": int,
    "chance": float,
}
RESULTS = pa.schema([(name, _KINDS[_TYPES.get(name, str)]) for name in ResultRow.__annotations__])


def horizon_of(sample: Sample) -> str:
    """`image`, `text`, or a clip of up to or over 32 s."""
    if sample.media_kind != "clip":
        return sample.media_kind
    return "clip_to_32s" if sample.span_s <= SHORT_CLIP_S else "clip_over_32s"


def result_row(sample: Sample, suite: Suite, rollout: Rollout, score: Score) -> ResultRow:
    """What is kept of one answered sample."""
    return ResultRow(
        sample_id=sample.id,
        suite=suite,
        family=sample.family.value,
        dimension=sample.dimension.value,
        benchmark=sample.benchmark,
        horizon=horizon_of(sample),
        scene=sample.scene,
        task=score.task,
        success=score.success,
        format=score.format,
        tokens=rollout.tokens,
        think_chars=score.think_chars,
        chance=sample.chance,
        completion=rollout.completion,
        answer=score.answer,
        reason=score.reason,
    )


def write_results(path: Path, rows: Sequence[ResultRow], schema: pa.Schema = RESULTS) -> None:
    """Write rows to one Parquet file."""
    write_table(path, pa.Table.from_pylist(list(rows), schema=schema))


def read_results(path: Path) -> pl.DataFrame:
    """The results of an eval stage, by its folder or file, sorted by suite and sample."""
    file = path / "results.parquet" if path.is_dir() else path
    if not file.exists():
        raise UserInputError(f"{file} does not exist; is {path} the output of an eval stage?")
    frame = read_frame(file)
    missing = [name for name in RESULTS.names if name not in frame.columns]
    if missing:
        raise UserInputError(f"{file} lacks the columns {', '.join(missing)}; run eval again")
    return frame.sort("suite", "sample_id")


# Scores with bootstrap intervals, and paired differences of two result sets.
#
# A score is 100 x the mean task reward. The *embodied score* is a macro average: the mean over the
# task families of each family's mean, so a family with many questions weighs no more than another.
# Intervals are percentiles of a bootstrap that draws whole scenes, because questions about one scene
# succeed and fail together.

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


class Sampled(Frozen):
    """What several sampled answers to each question of a suite show beside the greedy one.

    Estimates are averaged as the suite's score is. `score` is that of a sampled answer; the others are
    of success alone: the greedy answer's, p@k as the share that one of k answers solves, and the
    majority's. Chance at p@k is that one of k guesses is right.
    """

    attempts: int
    temperature: float
    score: Estimate
    greedy: Estimate
    at: dict[int, Estimate]
    majority: Estimate

    def named(self) -> dict[str, Estimate]:
        """The estimates by short names, in the order in which they are shown."""
        at = {f"p@{k}": found for k, found in self.at.items()}
        return {"greedy": self.greedy, **at, "majority": self.majority, "sampled": self.score}


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
        choices = generator.integers(0, scenes, (rows, scenes))
        choices += np.arange(rows)[:, None] * scenes
        weights = np.bincount(choices.ravel(), minlength=rows * scenes)
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


# Forgetting: questions that an earlier policy could answer and a later one can't.


class Flips(Frozen):
    """Questions whose success changed between two policies, out of `n` that both answered."""

    n: int
    kept: int
    lost: int
    gained: int
    lost_by_family: dict[str, int] = Field(default_factory=dict)
    gained_by_family: dict[str, int] = Field(default_factory=dict)

    @property
    def forgotten_share(self) -> float:
        """Lost questions as a share of those that succeeded before."""
        return self.lost / max(1, self.kept + self.lost)


def with_flips(before: pl.DataFrame, after: pl.DataFrame) -> pl.DataFrame:
    """`after` on the common questions, with `lost`, `gained` and the answer before."""
    old = before.select(
        "suite",
        "sample_id",
        success_before="success",
        answer_before="answer",
        completion_before="completion",
    )
    return after.join(old, on=["suite", "sample_id"], how="inner").with_columns(
        lost=pl.col("success_before") & ~pl.col("success"),
        gained=~pl.col("success_before") & pl.col("success"),
    )


def flips(before: pl.DataFrame, after: pl.DataFrame) -> Flips:
    """Count the questions lost and gained from `before` to `after`."""
    frame = with_flips(before, after)

    def by_family(column: str) -> dict[str, int]:
        counted = frame.filter(pl.col(column)).group_by("family").len().sort("family")
        return {str(family): int(n) for family, n in counted.iter_rows()}

    return Flips(
        n=len(frame),
        kept=int((frame["success_before"] & frame["success"]).sum()),
        lost=int(frame["lost"].sum()),
        gained=int(frame["gained"].sum()),
        lost_by_family=by_family("lost"),
        gained_by_family=by_family("gained"),
    )


# `summary.json`: every score of one policy with its interval, and the paired comparisons.


class Comparison(Frozen):
    """One policy against an earlier one, on the questions that both answered.

    `think_share` is the length of thinking relative to the earlier one's, None if that one did not think;
    results of before 2026-12 have 1 there.
    """

    to: str
    embodied: Difference | None
    general: Difference | None
    families: dict[str, Difference]
    dimensions: dict[str, Difference]
    embodied_flips: Flips
    general_flips: Flips
    format_drop: float
    think_share: float | None


class Summary(Frozen):
    """Scores in points of 100. Dimensions and horizons are of the embodied suite.

    The general score is the mean over its benchmarks. `format_rate` is the mean format reward of the
    embodied suite in 0 … 1, `chance` beside a score is what blind guessing gets, aggregated as the
    score is. A benchmark's key is `suite/name`. `sampled`, by suite, is there where `eval.samples` is set.
    """

    embodied: Estimate | None
    general: Estimate | None
    families: dict[str, Estimate]
    dimensions: dict[str, Estimate]
    benchmarks: dict[str, Estimate]
    horizons: dict[str, Estimate]
    format_rate: float
    success_rate: float
    mean_tokens: float
    mean_think_chars: float
    comparisons: dict[str, Comparison] = Field(default_factory=dict)
    sampled: dict[str, Sampled] = Field(default_factory=dict, exclude_if=lambda found: not found)


# Of which groups a suite's score is the mean.
AVERAGED: Mapping[Suite, str] = {"embodied": "family", "general": "benchmark"}


def suite_of(frame: pl.DataFrame, suite: Suite) -> pl.DataFrame:
    """The rows of one suite."""
    return frame.filter(pl.col("suite") == suite)


def summarise(
    frame: pl.DataFrame,
    earlier: Mapping[str, tuple[str, pl.DataFrame]] | None = None,
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> Summary:
    """All scores of a result set. `earlier`: name -> (where it is from, results to compare with)."""
    embodied, general = suite_of(frame, "embodied"), suite_of(frame, "general")

    def scores(rows: pl.DataFrame, by: str | None) -> tuple[Estimate | None, dict[str, Estimate]]:
        return estimate(rows, by, resamples=resamples, seed=seed) if len(rows) else (None, {})

    score, families = scores(embodied, AVERAGED["embodied"])
    with_suite = frame.with_columns(benchmark=pl.concat_str("suite", "benchmark", separator="/"))
    return Summary(
        embodied=score,
        general=scores(general, AVERAGED["general"])[0],
        families=families,
        dimensions=scores(embodied, "dimension")[1],
        benchmarks=scores(with_suite, "benchmark")[1],
        horizons=scores(embodied, "horizon")[1],
        format_rate=mean_of(embodied, "format"),
        success_rate=mean_of(embodied, "success"),
        mean_tokens=mean_of(frame, "tokens"),
        mean_think_chars=mean_of(embodied, "think_chars"),
        comparisons={
            name: compare(before, frame, to=where, resamples=resamples, seed=seed)
            for name, (where, before) in (earlier or {}).items()
        },
    )


def compare(
    before: pl.DataFrame,
    after: pl.DataFrame,
    *,
    to: str = "",
    resamples: int = 2000,
    seed: int = 0,
) -> Comparison:
    """Paired differences of two result sets, after minus before."""
    pairs = paired(before, after)
    embodied, general = suite_of(pairs, "embodied"), suite_of(pairs, "general")

    def differences(
        rows: pl.DataFrame, by: str | None
    ) -> tuple[Difference | None, dict[str, Difference]]:
        return difference(rows, by, resamples=resamples, seed=seed) if len(rows) else (None, {})

    total, families = differences(embodied, AVERAGED["embodied"])
    old, new = suite_of(before, "embodied"), suite_of(after, "embodied")
    thought = mean_of(old, "think_chars")
    return Comparison(
        to=to,
        embodied=total,
        general=differences(general, AVERAGED["general"])[0],
        families=families,
        dimensions=differences(embodied, "dimension")[1],
        embodied_flips=flips(old, new),
        general_flips=flips(suite_of(before, "general"), suite_of(after, "general")),
        format_drop=100 * (mean_of(old, "format") - mean_of(new, "format")),
        think_share=mean_of(new, "think_chars") / thought if thought else None,
    )
