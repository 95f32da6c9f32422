"""The gate before promotion: tables of made results, one change at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest

from pelican.config.recipe import GateConfig
from pelican.evaluation.promotion import DataFacts, judge

FAMILIES = ("counting", "planning")
GOOD = DataFacts(rows=100, quarantined=2, agreed_new=(60, 100), agreed_old=(50, 100))


def results(new: float, old: float, **changes: Any) -> pl.DataFrame:
    """200 new and 200 old embodied questions and 100 general; success rates of the two sides."""
    values = {"counting": old, "planning": old, "general": 0.6, "format": 1.0, "think": 40}
    values |= changes
    rows = []
    for number in range(500):
        kind = "new" if number < 200 else "old" if number < 400 else "general"
        family = "general" if kind == "general" else FAMILIES[number % 2]
        rate = new if kind == "new" else values[family]
        rows.append(
            {
                "sample_id": f"v/{number}" if kind == "new" else f"{number}",
                "suite": "general" if kind == "general" else "embodied",
                "family": family,
                "dimension": "spatial_geometric",
                "benchmark": "v" if kind == "new" else "default",
                "horizon": "image",
                "scene": f"s{number}",
                # The same questions succeed first, so that differences are paired as they would be.
                "task": float(np.random.default_rng(number).random() < rate),
                "format": float(values["format"]),
                "think_chars": int(values["think"]),
            }
        )
    frame = pl.DataFrame(rows)
    return frame.with_columns(
        success=pl.col("task") > 0.5, chance=pl.lit(0.2), answer=pl.lit(""), completion=pl.lit("")
    )


BASE = results(0.3, 0.5)
CASES: dict[str, tuple[pl.DataFrame, DataFacts, dict[str, Any], set[str]]] = {
    "better, nothing forgotten": (results(0.6, 0.5), GOOD, {}, set()),
    "the same": (BASE, GOOD, {}, {"gain"}),
    "better within noise": (results(0.3, 0.5, counting=0.6), GOOD, {}, {"gain"}),
    "better, but less than wanted": (results(0.4, 0.5), GOOD, {"min_gain": 15.0}, {"gain"}),
    "worse on the new": (results(0.1, 0.5), GOOD, {}, {"gain"}),
    "a family forgotten": (
        results(0.6, 0.5, counting=0.2),
        GOOD,
        {},
        {"family/counting", "dimension/spatial_geometric", "benchmark/embodied/default"},
    ),
    "a family forgotten that may be": (
        results(0.6, 0.5, counting=0.2),
        GOOD,
        {
            "tolerances": {
                "counting": 60,
                "spatial_geometric": 60,
                "embodied/default": 60,
            }
        },
        set(),
    ),
    "the general suite forgotten": (
        results(0.6, 0.5, general=0.2),
        GOOD,
        {},
        {"benchmark/general/default"},
    ),
    "the format lost": (results(0.6, 0.5, format=0.9), GOOD, {}, {"format"}),
    "thinking lost": (results(0.6, 0.5, think=2), GOOD, {}, {"thinking"}),
    "many unusable rows": (results(0.6, 0.5), DataFacts(100, 11), {}, {"data"}),
    "labels that the teacher denies": (
        results(0.6, 0.5),
        DataFacts(100, 0, (10, 100), (50, 100)),
        {},
        {"labels"},
    ),
    "no teacher": (results(0.6, 0.5), DataFacts(100, 0), {}, set()),
}


@pytest.mark.parametrize("name", CASES)
def test_the_gate_before_promotion(name: str) -> None:
    after, facts, changes, failed = CASES[name]
    checks = judge(BASE, after, "v/", facts, GateConfig(**changes), resamples=300)
    assert {check.name for check in checks if not check.passed} == failed
    assert all(check.reason.startswith(check.name.split("/")[0]) for check in checks)


def test_every_number_of_a_check_is_kept() -> None:
    checks = {c.name: c for c in judge(BASE, results(0.6, 0.5), "v/", GOOD, GateConfig())}
    assert {"delta", "low", "high", "n", "confidence", "limit"} <= set(checks["gain"].numbers)
    assert checks["gain"].numbers["n"] == 200
    assert checks["family/counting"].numbers["n"] == 100
    assert checks["labels"].numbers["new"] == 0.6


def test_without_a_new_question_there_is_no_gain() -> None:
    checks = judge(BASE, BASE, "another/", GOOD, GateConfig(), resamples=50)
    assert [c.passed for c in checks if c.name == "gain"] == [False]


def of_scenes(frame: pl.DataFrame, rows: pl.Expr, scenes: int) -> pl.DataFrame:
    """The chosen rows come from so many scenes."""
    name = pl.concat_str(pl.lit("few-"), (pl.int_range(pl.len()) % scenes).cast(pl.String))
    return frame.with_columns(scene=pl.when(rows).then(name).otherwise(pl.col("scene")))


@pytest.mark.parametrize(("scenes", "passed"), [(1, False), (4, False), (5, True), (40, True)])
def test_a_gain_on_few_scenes_is_not_believed(scenes: int, passed: bool) -> None:
    """Of one scene the bootstrap has but one draw, whatever was answered: its interval is a point."""
    new = pl.col("sample_id").str.starts_with("v/")
    before, after = (of_scenes(f, new, scenes) for f in (BASE, results(0.9, 0.5)))
    gain = judge(before, after, "v/", GOOD, GateConfig(), resamples=300)[0]
    assert (gain.passed, gain.numbers["scenes"]) == (passed, scenes)
    assert ("scenes are too few to believe it" in gain.reason) is not passed


def test_a_loss_on_one_scene_is_not_believed_either() -> None:
    """A delivery of before, three questions of one scene, loses an answer."""
    number = pl.int_range(pl.len())
    early = (number >= 200) & (number < 203)

    def with_early(frame: pl.DataFrame, lost: int) -> pl.DataFrame:
        right = pl.when(number < 200 + lost).then(0.0).otherwise(1.0)
        return of_scenes(frame, early, 1).with_columns(
            benchmark=pl.when(early).then(pl.lit("early")).otherwise(pl.col("benchmark")),
            task=pl.when(early).then(right).otherwise(pl.col("task")),
        )

    before, after = with_early(BASE, 0), with_early(results(0.6, 0.5), 1)
    checks = {c.name: c for c in judge(before, after, "v/", GOOD, GateConfig(), resamples=300)}
    few = checks["few questions"]
    assert "benchmark/embodied/early" not in checks and "embodied/early" in few.reason
    assert few.passed and few.numbers["delta"] == pytest.approx(-100 / 3)
    assert all(check.passed for check in checks.values())


@pytest.mark.parametrize(
    ("old", "told"), [((0, 100), "confirmed none of 100"), ((0, 0), "was not asked")]
)
def test_a_teacher_that_confirms_nothing_says_nothing_of_the_labels(
    old: tuple[int, int], told: str
) -> None:
    facts = DataFacts(rows=100, quarantined=0, agreed_new=(1, 100), agreed_old=old)
    labels = judge(BASE, results(0.6, 0.5), "v/", facts, GateConfig(), resamples=20)[-1]
    assert labels.passed and told in labels.reason


def small_families(frame: pl.DataFrame) -> pl.DataFrame:
    """The 42 old questions of the first six of 29 families of seven; the other 158 are one."""
    number = pl.int_range(pl.len())
    old = (pl.col("suite") == "embodied") & ~pl.col("sample_id").str.starts_with("v/")
    part = (number - 200) // 7
    small = pl.concat_str(pl.lit("small-"), part.cast(pl.String))
    name = pl.when(part < 6).then(small).otherwise(pl.lit("planning"))
    return frame.with_columns(family=pl.when(old).then(name).otherwise(pl.col("family")))


def test_what_few_questions_lost_together_is_noticed() -> None:
    """Of each family of seven two answers are lost: noise alone, a loss together."""
    before, after = small_families(results(0.3, 1.0)), small_families(results(0.6, 1.0))
    part = (pl.int_range(pl.len()) - 200) % 7 < 2
    lost = pl.col("family").str.starts_with("small-") & part
    after = after.with_columns(task=pl.when(lost).then(0.0).otherwise(pl.col("task")))

    def checks(**changes: Any) -> dict[str, Any]:
        config = GateConfig.model_validate(changes)
        return {c.name: c for c in judge(before, after, "v/", GOOD, config, resamples=300)}

    found = checks()
    assert not found["few questions"].passed
    assert found["few questions"].numbers["n"] == 42
    assert "small-0, small-1" in found["few questions"].reason
    assert not [name for name in found if name.startswith("family/small-")]
    assert checks(tolerances={"few questions": 30})["few questions"].passed
    alone = checks(min_questions=1)
    assert "few questions" not in alone
    assert alone["family/small-0"].numbers["n"] == 7
    told = checks(tolerances={"small-0": 3})
    assert "so few can't tell" in told["family/small-0"].reason
    assert told["few questions"].numbers["n"] == 35
