"""Two arms of an experiment, each run with several seeds that all answer the same questions.

Seeds and questions are crossed, not nested: a question that is hard is hard for every seed. So a mean over
seeds is uncertain in two ways. Another seed would have trained otherwise, which the seeds' own differences
show; and all seeds share the choice of questions, which no number of seeds makes up for. A bootstrap that
draws scenes anew for every seed leaves the second out, and finds a difference where there is none in
15 % of experiments of 5 seeds instead of 5 %.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from pelican.evaluation.metrics import (
    AVERAGED,
    LEVEL,
    Floats,
    Suite,
    bootstrap_means,
    paired,
    suite_of,
)

POWER = 0.8


@dataclass(frozen=True)
class Pooled:
    """The mean over seeds of a paired difference, in points, with its interval and two-sided p.

    Of one seed the interval and p are of the scenes alone, and say nothing of another training.
    `seed_variance` is of one seed's difference, `common_variance` what the choice of scenes adds to any
    number of seeds.
    """

    delta: float
    seeds: int
    scenes: int
    seed_variance: float
    common_variance: float

    @property
    def low(self) -> float:
        return self.delta - self._half(self.seeds)

    @property
    def high(self) -> float:
        return self.delta + self._half(self.seeds)

    @property
    def p(self) -> float:
        """How often chance alone gives a difference as large, either way."""
        error = self.error(self.seeds)
        if error == 0:
            return float(self.delta == 0)
        return 2 * t_tail(abs(self.delta) / error, self.freedom(self.seeds))

    def error(self, seeds: int) -> float:
        """The standard error of the mean of so many seeds on these scenes."""
        return float(np.sqrt(self.seed_variance / seeds + self.common_variance))

    def freedom(self, seeds: int) -> float:
        """Degrees of freedom of that error: Satterthwaite's, between those of seeds and of scenes."""
        own, common = self.seed_variance / seeds, self.common_variance
        parts = own**2 / max(1, seeds - 1) + common**2 / max(1, self.scenes - 1)
        return (own + common) ** 2 / parts if parts else 1.0

    def detectable(self, seeds: int) -> float:
        """The difference that an experiment of so many seeds finds in 80 of 100 cases, at 5 %."""
        freedom = self.freedom(seeds)
        tails = t_quantile((1 + LEVEL) / 2, freedom) + t_quantile(POWER, freedom)
        return tails * self.error(seeds)

    def _half(self, seeds: int) -> float:
        return t_quantile((1 + LEVEL) / 2, self.freedom(seeds)) * self.error(seeds)


def pool(
    deltas: Floats,
    groups: Sequence[str],
    scenes: Sequence[str],
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> Pooled:
    """The macro average over groups of paired differences, pooled over seeds.

    A replicate draws scenes once, for all seeds. Two seeds' averages then vary together by as much as
    the choice of scenes moves both: that covariance is the variance which more seeds don't lessen.
    Seeds, of which there are few, are not drawn: their spread makes a t interval.

    Args:
        deltas: [seeds, questions], points.
        groups: Of the questions; their means weigh alike.
        scenes: Of the questions.
        resamples: Draws of scenes.
        seed: Of the draws.
    """
    means = [bootstrap_means(row, groups, scenes, resamples=resamples, seed=seed) for row in deltas]
    each = np.array([found.macro()[0] for found in means])
    draws = np.stack([np.nanmean(found.draws, axis=1) for found in means])
    number, together = len(each), np.atleast_2d(np.cov(draws))
    if number == 1:
        own, common = 0.0, float(together[0, 0])
    else:
        own = float(each.var(ddof=1))
        common = float((together.sum() - together.trace()) / (number * (number - 1)))
    return Pooled(float(each.mean()), number, means[0].all_scenes, own, max(0.0, common))


def pool_suite(
    pairs: Sequence[tuple[pl.DataFrame, pl.DataFrame]], suite: Suite, *, resamples: int = 2000
) -> Pooled | None:
    """`pool` of (before, after) results, a pair a seed, on the questions of a suite that all answered.

    None if there are none.
    """
    found: pl.DataFrame | None = None
    by = AVERAGED[suite]
    for number, pair in enumerate(pairs):
        before, after = (suite_of(frame, suite) for frame in pair)
        one = paired(before, after).select(
            "sample_id", "scene", by, pl.col("delta").alias(str(number))
        )
        rest = one if found is None else one.drop("scene", by)
        found = rest if found is None else found.join(rest, on="sample_id", how="inner")
    if found is None or found.is_empty():
        return None
    found = found.sort("sample_id")
    deltas = np.stack([found[str(number)].to_numpy() for number in range(len(pairs))])
    return pool(deltas, found[by].to_list(), found["scene"].to_list(), resamples=resamples)


# Student's t without SciPy. With t = sqrt(n) tan(a) its density is cos(a) ** (n - 1), up to a factor.

_ANGLES = np.linspace(0.0, np.pi / 2, 40_001)
_MOST = 10_000.0  # degrees of freedom; more are the normal distribution to four digits


def _share_below(freedom: float) -> Floats:
    """The probability that |t| lies below each angle."""
    density = np.cos(_ANGLES).clip(0.0) ** (min(freedom, _MOST) - 1)
    area: Floats = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    shares: Floats = area / area[-1]
    return shares


def t_quantile(probability: float, freedom: float) -> float:
    """The value that t lies below with this probability, of 0.5 or more."""
    angle = np.interp(2 * probability - 1, _share_below(freedom), _ANGLES)
    return float(np.sqrt(min(freedom, _MOST)) * np.tan(angle))


def t_tail(value: float, freedom: float) -> float:
    """The probability that t lies above `value`, which is 0 or more."""
    angle = np.arctan(value / np.sqrt(min(freedom, _MOST)))
    return float(1 - np.interp(angle, _ANGLES, _share_below(freedom))) / 2
