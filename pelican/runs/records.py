"""What a run keeps as JSON beside its stages, checked when it is read.

Fields that another version added are let through, so that the runs of an old store stay readable; what
this one reads is checked, so that a damaged record is named instead of shown.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, RootModel


class Lenient(BaseModel):
    """A record that may have more fields than are read here."""

    model_config = ConfigDict(frozen=True)


class Summary(Lenient):
    """`summary.json` of a run: how it ended. The rest is what `pelican show` tells."""

    state: str
    report_error: str | None = None


class Failure(Lenient):
    """`failure.json`: the step that failed. Without `exit_code`: of a version that kept the name alone."""

    model_config = ConfigDict(extra="allow")

    stage: str
    loop: int = 0
    phase: str = "base"
    exit_code: int | None = None
    message: str


class Score(Lenient):
    """An estimate of `pelican.evaluation.metrics`, as people are shown it."""

    model_config = ConfigDict(extra="allow")

    score: FiniteFloat
    low: FiniteFloat
    high: FiniteFloat
    n: int
    chance: FiniteFloat


class Change(Lenient):
    """A difference of two estimates."""

    model_config = ConfigDict(extra="allow")

    delta: FiniteFloat
    low: FiniteFloat
    high: FiniteFloat


class Flips(Lenient):
    """Questions that both policies answered, by what became of their success."""

    kept: int
    lost: int


class Compared(Lenient):
    """One policy against an earlier one."""

    embodied: Change | None
    general: Change | None
    embodied_flips: Flips | None = None
    general_flips: Flips | None = None


class Sampled(Lenient):
    """What sampled answers show beside greedy ones."""

    attempts: int
    temperature: FiniteFloat
    score: Score
    greedy: Score
    at: dict[int, Score]
    majority: Score


class Scores(Lenient):
    """`summary.json` of an evaluation."""

    embodied: Score | None = None
    general: Score | None = None
    families: dict[str, Score] = Field(default_factory=dict)
    dimensions: dict[str, Score] = Field(default_factory=dict)
    benchmarks: dict[str, Score] = Field(default_factory=dict)
    horizons: dict[str, Score] = Field(default_factory=dict)
    comparisons: dict[str, Compared] = Field(default_factory=dict)
    sampled: dict[str, Sampled] = Field(default_factory=dict)


class CheckedPool(Lenient):
    """What preflight found in a pool: how many samples, and which rows it left out."""

    samples: int
    quarantined: dict[str, int] = Field(default_factory=dict)
    quarantine: list[dict[str, Any]] = Field(default_factory=list)


class Checks(RootModel[dict[str, CheckedPool]]):
    """`preflight.json`, by the pools' names in the recipe."""


class Tree(RootModel[dict[str, Any]]):
    """Any JSON object: nothing but its form is known."""
