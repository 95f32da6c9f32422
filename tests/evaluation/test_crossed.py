"""Seeds and scenes crossed: intervals that contain the truth as often as they say."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from pelican.evaluation.crossed import Pooled, pool, pool_suite, t_quantile, t_tail
from pelican.evaluation.metrics import bootstrap_means
from pelican.experiments import FIRST, decide

Floats = NDArray[np.float64]
QUESTIONS, PER_SCENE = 120, 2
SCENES = [str(i // PER_SCENE) for i in range(QUESTIONS)]
GROUPS = ["abc"[i % 3] for i in range(QUESTIONS)]


# Student's t, of published tables and of its own symmetry.


@pytest.mark.parametrize(
    ("freedom", "expected"),
    [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (9, 2.262), (30, 2.042), (1e9, 1.960)],
)
def test_the_quantile_is_that_of_the_tables(freedom: float, expected: float) -> None:
    assert t_quantile(0.975, freedom) == pytest.approx(expected, abs=6e-4)
    assert t_tail(t_quantile(0.975, freedom), freedom) == pytest.approx(0.025, abs=1e-6)


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0, 5.0, 100.0])
def test_one_degree_of_freedom_is_cauchys_distribution_and_two_have_a_formula(value: float) -> None:
    assert t_tail(value, 1) == pytest.approx(0.5 - math.atan(value) / math.pi, abs=1e-6)
    assert t_tail(value, 2) == pytest.approx(0.5 - value / math.sqrt(2 + value**2) / 2, abs=1e-6)


# Coverage, simulated: no difference in truth; seeds, scenes and both together move what is measured.


def experiments(
    seeds: int, number: int, of_seed: float, of_scene: float, of_both: float
) -> Iterator[Floats]:
    """Differences [seeds, questions] of experiments without an effect."""
    rng = np.random.default_rng(seeds)
    for _ in range(number):
        scenes = rng.normal(0, of_scene, (1, QUESTIONS // PER_SCENE)).repeat(PER_SCENE, 1)
        own = rng.normal(0, of_seed, (seeds, 1))
        yield own + scenes + rng.normal(0, of_both, (seeds, QUESTIONS))


def nested(deltas: Floats) -> tuple[float, float]:
    """The percentile interval of a bootstrap that draws seeds, and for each its own scenes."""
    draws = np.array(
        [
            np.nanmean(bootstrap_means(row, GROUPS, SCENES, resamples=200, seed=i).draws, axis=1)
            for i, row in enumerate(deltas)
        ]
    )
    rng = np.random.default_rng(0)
    chosen = rng.integers(0, len(deltas), (200, len(deltas)))
    low, high = np.quantile([draws[who, i].mean() for i, who in enumerate(chosen)], [0.025, 0.975])
    return low, high


SIZES = {"of_seed": 1.0, "of_scene": 37.0, "of_both": 10.0}  # a question's SD is that of `tiny`


@pytest.mark.parametrize(
    ("seeds", "sizes"),
    [
        (3, SIZES),
        (5, SIZES),
        (10, SIZES),
        (5, {"of_seed": 0.0, "of_scene": 0.0, "of_both": 39.0}),
        (5, {"of_seed": 8.0, "of_scene": 20.0, "of_both": 30.0}),
    ],
)
def test_without_an_effect_one_is_found_in_about_five_of_a_hundred(
    seeds: int, sizes: dict[str, float]
) -> None:
    number = 200
    found = [
        pool(deltas, GROUPS, SCENES, resamples=100)
        for deltas in experiments(seeds, number, **sizes)
    ]
    false = sum(one.low > 0 or one.high < 0 for one in found) / number
    assert 0.01 <= false <= 0.09  # 0.05 but for what 200 experiments can tell
    assert false == pytest.approx(sum(one.p < 0.05 for one in found) / number, abs=1e-9)


def test_scenes_drawn_anew_for_each_seed_find_effects_where_there_are_none() -> None:
    number = 150
    intervals = [nested(deltas) for deltas in experiments(5, number, **SIZES)]
    assert sum(low > 0 or high < 0 for low, high in intervals) / number > 0.15


def test_the_effect_that_can_be_told_is_found_in_four_of_five_experiments() -> None:
    number, seeds = 200, 5
    found = [
        pool(deltas, GROUPS, SCENES, resamples=100)
        for deltas in experiments(seeds, number, **SIZES)
    ]
    effect = float(np.mean([one.detectable(seeds) for one in found]))
    told = sum(one.low + effect > 0 for one in found) / number
    assert told == pytest.approx(0.8, abs=0.09)


# What is pooled.


def test_equal_seeds_leave_the_doubt_about_scenes_and_equal_scenes_that_about_seeds() -> None:
    scenes = np.random.default_rng(0).normal(3, 20, QUESTIONS // PER_SCENE).repeat(PER_SCENE)
    same = pool(np.stack([scenes] * 4), GROUPS, SCENES)
    alone = pool(scenes[None], GROUPS, SCENES)
    assert same.seed_variance == 0
    assert same.error(4) == pytest.approx(alone.error(1)) == pytest.approx(same.error(10))

    flat = pool(np.array([[1.0], [2.0], [6.0]]) + np.zeros((3, QUESTIONS)), GROUPS, SCENES)
    assert flat.common_variance == pytest.approx(0)
    half = t_quantile(0.975, 2) * math.sqrt(7 / 3)
    assert (flat.delta, flat.low, flat.high) == pytest.approx((3, 3 - half, 3 + half))
    assert flat.freedom(3) == pytest.approx(2)
    assert pool(np.zeros((2, QUESTIONS)), GROUPS, SCENES).p == 1


def results(tasks: list[float], suite: str = "embodied") -> pl.DataFrame:
    n = len(tasks)
    return pl.DataFrame(
        {
            "suite": [suite] * n,
            "sample_id": [f"q{i}" for i in range(n)],
            "scene": [f"s{i}" for i in range(n)],
            "family": ["a"] * (n - 1) + ["b"],
            "benchmark": ["x"] * n,
            "task": tasks,
        }
    )


def test_pairs_are_of_the_questions_that_every_seed_answered_and_families_weigh_alike() -> None:
    zeros = results([0.0] * 4)
    pairs = [
        (zeros, results([1.0, 0.0, 0.0, 1.0])),  # a: 1/3, b: 1
        (zeros.filter(pl.col("sample_id") != "q1"), results([0.0, 1.0, 0.0, 0.0])),
    ]
    found = pool_suite(pairs, "embodied")
    assert found is not None
    assert (found.seeds, found.scenes) == (2, 3)
    assert found.delta == pytest.approx(100 * ((1 / 2 + 1) / 2 + 0) / 2)
    assert pool_suite(pairs, "general") is None
    assert pool_suite([], "embodied") is None


# Verdicts.


def one(delta: float, half: float) -> Pooled:
    """With an interval of about `half` to both sides: many scenes, no doubt about seeds."""
    return Pooled(delta, 5, 10_000, 0.0, (half / 1.96) ** 2)


def test_claims_are_asked_in_order_until_one_is_not_shown() -> None:
    found = {
        ("one_loop", "d"): one(-5, 1),
        ("rl_only", "d"): one(-5, 1),
        ("hints", "d"): one(-9, 1),
        ("sft_mined", "d"): one(-9, 1),
        ("sft_uniform", "d"): one(0.2, 0.5),
    }
    assert decide(found) == {
        ("rl_only", "d"): f"{FIRST} is ahead",
        ("sft_uniform", "d"): f"{FIRST} is not shown to be ahead, and not behind by 1 or more",
        ("one_loop", "d"): "not asked, after sft_uniform",
        ("sft_mined", "d"): "not asked, after sft_uniform",
    }


@pytest.mark.parametrize(
    ("delta", "half", "verdict"),
    [
        (-1.0, 0.5, "is ahead"),
        (-0.9, 0.5, "is not shown to be ahead, and not behind by 1 or more"),  # too little
        (-3.0, 3.5, "is not shown to be ahead, and not behind by 1 or more"),
        (-3.0, 4.5, "is not shown to be ahead"),
        (2.0, 1.0, "is behind"),
    ],
)
def test_a_difference_counts_if_it_is_large_enough_and_its_interval_excludes_zero(
    delta: float, half: float, verdict: str
) -> None:
    assert decide({("rl_only", "d"): one(delta, half)}) == {("rl_only", "d"): f"{FIRST} {verdict}"}


def test_a_claim_with_several_settings_is_none() -> None:
    assert decide({("rl_only", "d"): one(-5, 1), ("rl_only", "e"): one(-5, 1)}) == {}
