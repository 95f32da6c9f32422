"""`summary.json`: every score of one policy with its interval, and the paired comparisons."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl
from pydantic import Field

from pelican.evaluation.forgetting import Flips, flips
from pelican.evaluation.metrics import (
    Difference,
    Estimate,
    difference,
    estimate,
    mean_of,
    paired,
)
from pelican.evaluation.results import Suite
from pelican.frozen import Frozen


class Comparison(Frozen):
    """One policy against an earlier one, on the questions that both answered."""

    to: str
    embodied: Difference | None
    general: Difference | None
    families: dict[str, Difference]
    dimensions: dict[str, Difference]
    embodied_flips: Flips
    general_flips: Flips
    format_drop: float
    think_share: float


class Summary(Frozen):
    """Scores in points of 100. Dimensions and horizons are of the embodied suite.

    The general score is the mean over its benchmarks. `format_rate` is the mean format reward of the
    embodied suite in 0 … 1, `chance` beside a score is what blind guessing gets, aggregated as the
    score is. A benchmark's key is `suite/name`.
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

    score, families = scores(embodied, "family")
    named = frame.with_columns(benchmark=pl.concat_str("suite", "benchmark", separator="/"))
    return Summary(
        embodied=score,
        general=scores(general, "benchmark")[0],
        families=families,
        dimensions=scores(embodied, "dimension")[1],
        benchmarks=scores(named, "benchmark")[1],
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

    total, families = differences(embodied, "family")
    old, new = suite_of(before, "embodied"), suite_of(after, "embodied")
    thought = mean_of(old, "think_chars")
    return Comparison(
        to=to,
        embodied=total,
        general=differences(general, "benchmark")[0],
        families=families,
        dimensions=differences(embodied, "dimension")[1],
        embodied_flips=flips(old, new),
        general_flips=flips(suite_of(before, "general"), suite_of(after, "general")),
        format_drop=100 * (mean_of(old, "format") - mean_of(new, "format")),
        think_share=mean_of(new, "think_chars") / thought if thought else 1.0,
    )
