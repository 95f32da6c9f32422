"""The gate between loops: go on, or stop with reasons.

A policy is compared with the best one that was accepted so far, measure by measure; the base is the
first of them. So neither a slow decline nor the loss of what an earlier loop gained passes, however low
the base began. A drop stops the metaloop if it is larger than the recipe allows *and* more than noise,
that is, the whole paired 95 % interval lies below zero. Format and thinking are watched because RL can
learn to answer without them (arXiv 2511.16602 saw a policy lose its chain of thought).

The best of several evaluations is a little lucky, so the gate is a little stricter than its limits.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import polars as pl
from pydantic import Field

from pelican.base.model import Frozen
from pelican.config.recipe import EvalConfig
from pelican.data.frames import read_frame
from pelican.evaluation.metrics import Comparison, Difference, compare

MAX_FORMAT_DROP = 5.0  # points of the format rate
MIN_THINK_SHARE = 0.25  # of the mean thinking length before


class Check(Frozen):
    """One condition of the gate, with the numbers it was decided on."""

    name: str
    passed: bool
    reason: str
    numbers: dict[str, float] = Field(default_factory=dict)


class Gate(Frozen):
    """`gate.json`: the decision is to go on if every check passed."""

    go_on: bool
    checks: list[Check]

    @property
    def reasons(self) -> list[str]:
        """Why the metaloop stops, or that nothing stands against going on."""
        failed = [check.reason for check in self.checks if not check.passed]
        return failed or [check.reason for check in self.checks]


def decide(accepted: Mapping[str, Comparison], config: EvalConfig) -> Gate:
    """Decide by the comparisons with every policy that was accepted before, by their names."""
    checks = [
        _drop("embodied", {n: c.embodied for n, c in accepted.items()}, config.max_embodied_drop),
        _drop("general", {n: c.general for n, c in accepted.items()}, config.max_general_drop),
        *form_checks(accepted),
    ]
    return Gate(go_on=all(check.passed for check in checks), checks=checks)


def _drop(name: str, changes: Mapping[str, Difference | None], limit: float) -> Check:
    known = {where: change for where, change in changes.items() if change is not None}
    if not known:
        reason = f"{name}: no earlier evaluation to compare with"
        return Check(name=name, passed=True, reason=reason)
    # All answered the same questions, so what is furthest above this policy is the best.
    best = min(known, key=lambda where: known[where].delta)
    change = known[best]
    words = (
        f"{change.delta:+.1f} points against {best}"
        f" (95 % {change.low:+.1f} to {change.high:+.1f}, n = {change.n})"
    )
    limits = f"a loss of {limit:g} points beyond noise stops the metaloop"
    return drop_check(name, change, limit, f"{name}: {words}; {limits}")


def drop_check(
    name: str, change: Difference, limit: float, reason: str, *, min_scenes: int = 0
) -> Check:
    """Fails on a loss of more than `limit` points, more than noise, and seen on `min_scenes`."""
    return Check(
        name=name,
        passed=not (change.delta < -limit and change.worse and change.scenes >= min_scenes),
        reason=reason,
        numbers={
            "delta": change.delta,
            "low": change.low,
            "high": change.high,
            "n": change.n,
            "limit": limit,
        },
    )


def form_checks(changes: Mapping[str, Comparison]) -> list[Check]:
    """Format and thinking are kept, against whoever had most of them; `changes` by their names."""
    if not changes:
        return [Check(name="format", passed=True, reason="format: nothing to compare with")]
    best = max(changes, key=lambda where: changes[where].format_drop)
    drop = changes[best].format_drop
    kept = Check(
        name="format",
        passed=drop <= MAX_FORMAT_DROP,
        reason=(
            f"format: {round(-drop, 1) + 0.0:+.1f} points against {best};"
            f" may lose {MAX_FORMAT_DROP:g}"
        ),
        numbers={"drop": drop, "limit": MAX_FORMAT_DROP},
    )
    return [kept, _thinking(changes)]


def _thinking(changes: Mapping[str, Comparison]) -> Check:
    shares = {n: c.think_share for n, c in changes.items() if c.think_share is not None}
    if not shares:
        reason = "thinking: no policy before thought anything, so nothing could be lost"
        return Check(name="thinking", passed=True, reason=reason)
    best = min(shares, key=shares.__getitem__)  # whoever thought longest
    share = shares[best]
    return Check(
        name="thinking",
        passed=share >= MIN_THINK_SHARE,
        reason=(
            f"thinking: {share:.2f} times the length of {best};"
            f" less than {MIN_THINK_SHARE:g} is a lost chain of thought"
        ),
        numbers={"share": share, "limit": MIN_THINK_SHARE},
    )


# The policies that were accepted before. An evaluation is given those of the base and of the loop before;
# that of the loop before hands on what the earlier ones answered, so that the graph need not.

BASE = "the base"
# Rows of `results.parquet` with the policy's name, without completions.
ACCEPTED = "accepted.parquet"
POLICY = "policy"


def accepted_before(
    earlier: Mapping[str, pl.DataFrame], previous: Path | None, loop: int
) -> dict[str, pl.DataFrame]:
    """Results of the policies that were accepted before `loop`, by name, the base first.

    Args:
        earlier: results of the evaluations that this one is given: `base`, and `previous`, of the end of
            the loop before, which in loop 1 is the base's.
        previous: the folder of that one.
        loop: counts from 1.
    """
    found: dict[str, pl.DataFrame] = {}
    if "base" in earlier:
        found[BASE] = earlier["base"]
    if previous is not None and loop > 1:
        if (previous / ACCEPTED).exists():
            parts = read_frame(previous / ACCEPTED).partition_by(POLICY, as_dict=True)
            found |= {str(name): rows.drop(POLICY) for (name,), rows in parts.items()}
        found[end_of(loop - 1)] = earlier["previous"]
    return found


def end_of(loop: int) -> str:
    """What the policy is called that a loop ended with."""
    return f"loop {loop}"


def write_accepted(path: Path, accepted: Mapping[str, pl.DataFrame]) -> None:
    """What `accepted_before` of the next loop reads; without the base, which each evaluation is given."""
    texts = [pl.lit("").alias(name) for name in ("completion", "answer", "reason")]
    rows = [
        frame.with_columns(pl.lit(name).alias(POLICY), *texts)
        for name, frame in accepted.items()
        if name != BASE
    ]
    pl.concat(rows).write_parquet(path, compression="zstd")


def compare_accepted(
    accepted: Mapping[str, pl.DataFrame],
    after: pl.DataFrame,
    known: Mapping[str, Comparison | None],
    *,
    resamples: int,
    seed: int,
) -> dict[str, Comparison]:
    """A policy's results `after` against each accepted one's; those that are `known` stand."""
    return {
        name: known.get(name) or compare(before, after, to=name, resamples=resamples, seed=seed)
        for name, before in accepted.items()
    }
