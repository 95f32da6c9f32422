"""The gate before promotion: does a retrained model gain on the new data, and forget nothing?

The target is the held-out part of the new data; it must rise with confidence. On the old held-out
sets a family, dimension or benchmark fails if it lost more than its tolerance *and* more than
noise (whole paired 95 % interval below zero), as in the gate between loops. Format, thinking and
the data itself are checked too: labels that the teacher does not confirm are no progress.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from pelican.config.recipe import GateConfig
from pelican.evaluation.gate import Check, drop_check, form_checks
from pelican.evaluation.metrics import (
    Difference,
    bootstrap_means,
    compare,
    difference,
    paired,
    suite_of,
)

FEW = "few questions"


@dataclass(frozen=True)
class DataFacts:
    """What is known of the new data: rows read and left out; the teacher's accepted answers.

    `agreed_new` and `agreed_old` are (accepted, asked) on new and on earlier training samples.
    """

    rows: int
    quarantined: int
    agreed_new: tuple[int, int] = (0, 0)
    agreed_old: tuple[int, int] = (0, 0)


def judge(
    before: pl.DataFrame,
    after: pl.DataFrame,
    new: str,
    facts: DataFacts,
    config: GateConfig,
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> list[Check]:
    """Check every condition of the promotion.

    Args:
        before: Results of the model in use, as an eval stage writes them.
        after: Results of the retrained model on the same questions.
        new: Prefix of the ids of the new data's samples.
        facts: Rows of the new data, and how often the teacher confirmed their labels.
        config: The tolerances.
        resamples: Of the bootstrap.
        seed: Of the bootstrap.
    """
    is_new = pl.col("sample_id").str.starts_with(new)
    old_before, old_after = before.filter(~is_new), after.filter(~is_new)
    pairs = paired(suite_of(before.filter(is_new), "embodied"), after)
    checks = [_gain(pairs, config, resamples, seed)]
    checks += _kept(old_before, old_after, config, resamples, seed)
    checks += form_checks({"the model in use": compare(before, after, resamples=1)})
    checks += [_usable(facts, config), _labels(facts, config)]
    return checks


def _gain(pairs: pl.DataFrame, config: GateConfig, resamples: int, seed: int) -> Check:
    """More than `min_gain` points on the new questions, mean over families, in enough resamples."""
    if pairs.is_empty():
        return Check(
            name="gain",
            passed=False,
            reason="gain: no new held-out question was answered by both models",
        )
    means = bootstrap_means(
        pairs["delta"].to_numpy(),
        pairs["family"].to_list(),
        pairs["scene"].to_list(),
        resamples=resamples,
        seed=seed,
    )
    delta, low, high = means.macro()
    sure = float((np.nanmean(means.draws, axis=1) > config.min_gain).mean())
    enough = means.all_scenes >= config.min_scenes
    doubt = f"; {means.all_scenes} scenes are too few to believe it, wanted {config.min_scenes}"
    return Check(
        name="gain",
        passed=enough and sure >= config.confidence and delta > config.min_gain,
        reason=(
            f"gain: {delta:+.1f} points on the new held-out set (95 % {low:+.1f} to {high:+.1f},"
            f" n = {len(pairs)}); more than {config.min_gain:g} with confidence {sure:.3f},"
            f" wanted {config.confidence:g}{'' if enough else doubt}"
        ),
        numbers={
            "delta": delta,
            "low": low,
            "high": high,
            "n": len(pairs),
            "scenes": means.all_scenes,
            "limit": config.min_gain,
            "confidence": sure,
            "wanted_confidence": config.confidence,
        },
    )


def _kept(
    before: pl.DataFrame, after: pl.DataFrame, config: GateConfig, resamples: int, seed: int
) -> list[Check]:
    """No family, dimension or benchmark of the old held-out sets lost more than it may.

    A few questions, or few scenes, prove nothing alone: such parts are judged together, unless
    they have a tolerance of their own.
    """
    change = compare(before, after, resamples=resamples, seed=seed)
    pairs = paired(before, after).with_columns(
        benchmark=pl.concat_str("suite", "benchmark", separator="/")
    )
    parts = {
        "family": change.families,
        "dimension": change.dimensions,
        "benchmark": difference(pairs, "benchmark", resamples=resamples, seed=seed)[1],
    }
    few = {
        kind: [
            name
            for name, part in of_kind.items()
            if _is_small(part, config) and name not in config.tolerances
        ]
        for kind, of_kind in parts.items()
    }
    checks = [
        _check_drop(f"{kind}/{name}", f"{kind} {name}", config.tolerances.get(name), part, config)
        for kind, of_kind in parts.items()
        for name, part in sorted(of_kind.items())
        if name not in few[kind]
    ]
    embodied = pl.col("suite") == "embodied"  # families and dimensions are of this suite
    together = pairs.filter(
        (
            embodied
            & (pl.col("family").is_in(few["family"]) | pl.col("dimension").is_in(few["dimension"]))
        )
        | pl.col("benchmark").is_in(few["benchmark"])
    )
    if len(together):
        part = difference(together, None, resamples=resamples, seed=seed)[0]
        names = sorted({name for of_kind in few.values() for name in of_kind})
        label = f"few questions ({', '.join(names)})"
        checks.append(_check_drop(FEW, label, config.tolerances.get(FEW), part, config))
    return checks


def _is_small(part: Difference, config: GateConfig) -> bool:
    return part.n < config.min_questions or part.scenes < config.min_scenes


def _check_drop(
    name: str, label: str, tolerance: float | None, change: Difference, config: GateConfig
) -> Check:
    """The check that one part of the old held-out sets lost no more than its tolerance.

    `tolerance` None: `config.max_drop`. Its reason says if the part is too small to tell a loss
    from noise.
    """
    limit = config.max_drop if tolerance is None else tolerance
    doubt = "; so few can't tell a loss from noise" if _is_small(change, config) else ""
    reason = (
        f"{label}: {change.delta:+.1f} points on the old held-out sets"
        f" (95 % {change.low:+.1f} to {change.high:+.1f}, n = {change.n},"
        f" scenes = {change.scenes}); may lose {limit:g} beyond noise{doubt}"
    )
    return drop_check(name, change, limit, reason, min_scenes=config.min_scenes)


def _usable(facts: DataFacts, config: GateConfig) -> Check:
    share = facts.quarantined / max(1, facts.rows)
    return Check(
        name="data",
        passed=share <= config.max_quarantined,
        reason=(
            f"data: {facts.quarantined} of {facts.rows} new rows were unusable"
            f" ({100 * share:.1f} %); at most {100 * config.max_quarantined:g} %"
        ),
        numbers={"share": share, "rows": facts.rows, "limit": config.max_quarantined},
    )


def _labels(facts: DataFacts, config: GateConfig) -> Check:
    """The teacher is right about new labels nearly as often as about old ones, which are trusted."""
    (right_new, asked_new), (right_old, asked_old) = facts.agreed_new, facts.agreed_old
    if not (asked_new and right_old):
        unasked = "was not asked about both new and earlier samples"
        unsure = f"confirmed none of {asked_old} earlier samples, so it says nothing of the new"
        finding = unsure if asked_new and asked_old else unasked
        return Check(name="labels", passed=True, reason=f"labels: the teacher {finding}")
    new, old = right_new / asked_new, right_old / asked_old
    return Check(
        name="labels",
        passed=new / old >= config.min_teacher_agreement,
        reason=(
            f"labels: the teacher's answers confirm {100 * new:.0f} % of {asked_new} new labels and"
            f" {100 * old:.0f} % of {asked_old} earlier ones, {new / old:.2f} times;"
            f" less than {config.min_teacher_agreement:g} speaks of wrong labels"
        ),
        numbers={
            "new": new,
            "old": old,
            "asked_new": asked_new,
            "asked_old": asked_old,
            "limit": config.min_teacher_agreement,
        },
    )
