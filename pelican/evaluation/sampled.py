"""Sampled answers beside the greedy one: p@1, p@k and what a majority of them says.

RL makes a policy surer of what it can do now and then, which p@1 shows and a greedy answer, surer already, hides;
p@k shows whether it can do more than before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl
import pyarrow as pa

from pelican.config.recipe import EvalConfig
from pelican.evaluation.attempts import majority, pass_at
from pelican.evaluation.metrics import (
    AVERAGED,
    RESULTS,
    Estimate,
    ResultRow,
    Sampled,
    estimate,
    suite_of,
)
from pelican.records import Rollout, Score

# Columns that `results.parquet` has besides where `eval.samples` is not 0.


class SampledRow(ResultRow):
    """`attempts` answers at a temperature: how many succeed, their mean task reward, the majority's success."""

    attempts: int
    successes: int
    attempts_task: float
    majority: float
    attempts_tokens: int


_INT, _FLOAT = pa.int32(), pa.float64()
WITH_ATTEMPTS = pa.schema(
    [
        *RESULTS,
        ("attempts", _INT),
        ("successes", _INT),
        ("attempts_task", _FLOAT),
        ("majority", _FLOAT),
        ("attempts_tokens", _INT),
    ]
)


def schema_of(config: EvalConfig) -> pa.Schema:
    """The columns of an evaluation's results."""
    return WITH_ATTEMPTS if config.samples else RESULTS


def with_attempts(
    row: ResultRow, rollouts: Sequence[Rollout], scores: Sequence[Score]
) -> SampledRow:
    """The row of a greedy answer with what the sampled ones show."""
    successes = [score.success for score in scores]
    return SampledRow(
        **row,
        attempts=len(scores),
        successes=sum(successes),
        attempts_task=sum(score.task for score in scores) / len(scores),
        majority=majority([score.answer for score in scores], [float(s) for s in successes]),
        attempts_tokens=sum(rollout.tokens for rollout in rollouts),
    )


# The part of `summary.json`.


def summarise_attempts(frame: pl.DataFrame, config: EvalConfig, seed: int) -> dict[str, Sampled]:
    """What the sampled answers of each suite show; empty if there are none. `seed`: of the bootstrap."""
    if not config.samples:
        return {}
    return {
        suite: _summarise(rows, by, config, seed)
        for suite, by in AVERAGED.items()
        if len(rows := suite_of(frame, suite))
    }


def _summarise(rows: pl.DataFrame, by: str, config: EvalConfig, seed: int) -> Sampled:
    chance = rows["chance"].to_numpy()
    counts = list(zip(rows["successes"].to_list(), rows["attempts"].to_list(), strict=True))

    def score(task: Sequence[float] | pl.Series, guessed: np.ndarray = chance) -> Estimate:
        columns = {"task": pl.Series(task, dtype=pl.Float64), "chance": pl.Series(guessed)}
        return estimate(rows.with_columns(**columns), by, resamples=config.bootstrap, seed=seed)[0]

    at = {
        k: score([pass_at(k, *found) for found in counts], 1 - (1 - chance) ** k)
        for k in powers(config.samples)
    }
    return Sampled(
        attempts=config.samples,
        temperature=config.samples_temperature,
        score=score(rows["attempts_task"]),
        greedy=score(rows["success"].cast(pl.Float64)),
        at=at,
        majority=score(rows["majority"]),
    )


def powers(attempts: int) -> list[int]:
    """The k of p@k that are shown: 1, 2, 4 and so on, and all attempts."""
    return sorted({*(2**i for i in range(attempts.bit_length())), attempts})


def sampled_metrics(sampled: Mapping[str, Sampled]) -> dict[str, float]:
    """The numbers that a manifest, and so Kubeflow, shows of them."""
    return {
        f"{suite}_{name}": found.score
        for suite, one in sampled.items()
        for name, found in one.named().items()
    }
