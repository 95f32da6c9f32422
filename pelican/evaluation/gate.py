"""The gate between loops: go on, or stop with reasons.

A drop stops the metaloop if it is larger than the recipe allows *and* more than noise, that is, the
whole paired 95 % interval lies below zero. Format and thinking are watched because RL can learn to
answer without them (arXiv 2511.16602 saw a policy lose its chain of thought).
"""

from __future__ import annotations

from pydantic import Field

from pelican.base.model import Frozen
from pelican.config.recipe import EvalConfig
from pelican.evaluation.metrics import Comparison, Difference, Summary

MAX_FORMAT_DROP = 5.0  # points of the format rate
MIN_THINK_SHARE = 0.25  # of the base's mean thinking length


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


def decide(summary: Summary, config: EvalConfig) -> Gate:
    """Decide from a summary that holds the comparisons `base` and `previous`, where there are any."""
    base = summary.comparisons.get("base")
    previous = summary.comparisons.get("previous")
    checks = [
        _drop(
            "embodied",
            previous.embodied if previous else None,
            config.max_embodied_drop,
            "previous",
        ),
        _drop("general", base.general if base else None, config.max_general_drop, "base"),
        *_form(base or previous, "base" if base else "previous"),
    ]
    return Gate(go_on=all(check.passed for check in checks), checks=checks)


def _drop(name: str, change: Difference | None, limit: float, against: str) -> Check:
    if change is None:
        return Check(
            name=name, passed=True, reason=f"{name}: no {against} evaluation to compare with"
        )
    words = (
        f"{change.delta:+.1f} points against {against} "
        f"(95 % {change.low:+.1f} to {change.high:+.1f}, n = {change.n})"
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


def _form(against: Comparison | None, name: str) -> list[Check]:
    if against is None:
        return [Check(name="format", passed=True, reason="format: nothing to compare with")]
    return form_checks(against, f"points against {name}", f"the length of {name}")


def form_checks(change: Comparison, points: str, length: str) -> list[Check]:
    """Format and thinking are kept; `points` and `length` word what they are compared with."""
    drop, share = change.format_drop, change.think_share
    return [
        Check(
            name="format",
            passed=drop <= MAX_FORMAT_DROP,
            reason=f"format: {round(-drop, 1) + 0.0:+.1f} {points}; may lose {MAX_FORMAT_DROP:g}",
            numbers={"drop": drop, "limit": MAX_FORMAT_DROP},
        ),
        Check(
            name="thinking",
            passed=share >= MIN_THINK_SHARE,
            reason=(
                f"thinking: {share:.2f} times {length};"
                f" less than {MIN_THINK_SHARE:g} is a lost chain of thought"
            ),
            numbers={"share": share, "limit": MIN_THINK_SHARE},
        ),
    ]
