"""Scores against hand-worked tables, and what the bootstrap must guarantee."""

import numpy as np
import polars as pl
import pytest

from pelican.evaluation.metrics import (
    bootstrap_means,
    compare,
    difference,
    paired,
    summarise,
    total_difference,
)


def frame_of(rows: list[tuple[str, str, str, float]], suite: str = "embodied") -> pl.DataFrame:
    """Rows of (id, family, scene, task)."""
    return pl.DataFrame(
        [
            {
                "sample_id": name,
                "suite": suite,
                "family": family,
                "dimension": "spatial_geometric" if index % 2 else "decision_planning",
                "benchmark": "made",
                "horizon": "image",
                "scene": scene,
                "task": task,
                "success": task >= 0.5,
                "format": 1.0,
                "tokens": 10 + index,
                "think_chars": 20,
                "chance": 0.25 if family == "counting" else 0.0,
                "completion": "",
                "answer": str(task),
                "reason": "",
            }
            for index, (name, family, scene, task) in enumerate(rows)
        ]
    )


SMALL = [
    ("a", "counting", "s1", 1.0),
    ("b", "counting", "s1", 0.0),
    ("c", "counting", "s2", 1.0),
    ("d", "counting", "s2", 1.0),
    ("e", "planning", "s3", 0.5),
    ("f", "planning", "s3", 0.0),
]


def noisy(scenes: int, seed: int, lift: float = 0.0) -> pl.DataFrame:
    """Four questions a scene, with an effect that the questions of a scene share."""
    generator = np.random.default_rng(seed)
    rows = []
    for scene in range(scenes):
        level = generator.uniform(0.1, 0.6)
        for question in range(4):
            family = ("counting", "planning")[question % 2]
            task = float(np.clip(level + lift + generator.normal(0, 0.05), 0, 1))
            rows.append((f"{scene}-{question}", family, f"s{scene}", task))
    return frame_of(rows)


def test_embodied_score_is_the_mean_of_the_families_not_of_the_questions():
    summary = summarise(frame_of(SMALL), resamples=50)
    assert summary.families["counting"].score == pytest.approx(75.0)  # 3 of 4
    assert summary.families["planning"].score == pytest.approx(25.0)  # 0.5 of 2
    assert summary.embodied.score == pytest.approx(50.0)  # not 3.5 / 6 = 58.3
    assert summary.embodied.n == 6
    assert summary.embodied.scenes == 3


def test_chance_is_aggregated_as_the_score_is():
    summary = summarise(frame_of(SMALL), resamples=50)
    assert summary.families["counting"].chance == pytest.approx(25.0)
    assert summary.embodied.chance == pytest.approx(12.5)


def test_dimensions_horizons_benchmarks_and_rates_of_a_hand_worked_table():
    summary = summarise(frame_of(SMALL), resamples=50)
    assert summary.dimensions["decision_planning"].score == pytest.approx(100 * 2.5 / 3)
    assert summary.dimensions["spatial_geometric"].score == pytest.approx(100 * 1.0 / 3)
    assert summary.horizons["image"].n == 6
    assert summary.benchmarks["embodied/made"].score == pytest.approx(100 * 3.5 / 6)
    assert summary.success_rate == pytest.approx(4 / 6)
    assert summary.mean_tokens == pytest.approx(12.5)


def test_the_general_suite_stays_out_of_the_embodied_score():
    general = frame_of([("g1", "general", "g1", 1.0), ("g2", "general", "g2", 0.0)], "general")
    summary = summarise(pl.concat([frame_of(SMALL), general]), resamples=50)
    assert summary.general.score == pytest.approx(50.0)
    assert summary.embodied.score == pytest.approx(50.0)
    assert set(summary.families) == {"counting", "planning"}


def test_an_absent_suite_has_no_score():
    assert summarise(frame_of(SMALL), resamples=50).general is None


def test_the_difference_of_identical_sets_is_exactly_zero():
    frame = noisy(40, seed=0)
    change = compare(frame, frame, resamples=200)
    for item in [change.embodied, *change.families.values(), *change.dimensions.values()]:
        assert (item.delta, item.low, item.high) == (0.0, 0.0, 0.0)
        assert not item.better and not item.worse


def test_the_paired_interval_covers_a_known_effect():
    covered = 0
    for seed in range(40):
        before, after = noisy(60, seed), noisy(60, seed + 1000, lift=0.1)
        change, _ = difference(paired(before, after), "family", resamples=300, seed=seed)
        covered += change.low <= 10.0 <= change.high
    assert covered >= 34  # 95 % of 40 is 38; fewer than 34 has probability below 1 %


def test_pairing_narrows_the_interval_where_questions_differ_in_difficulty():
    before = noisy(60, seed=1)
    after = before.with_columns(task=(pl.col("task") + 0.05).clip(0, 1))
    change, _ = difference(paired(before, after), "family", resamples=500, seed=0)
    alone = summarise(after, resamples=500).embodied
    assert change.delta == pytest.approx(5.0)
    assert change.high - change.low < 0.2 * (alone.high - alone.low)


def test_resampling_by_scene_widens_the_interval_of_questions_that_go_together():
    values = np.repeat(np.random.default_rng(0).integers(0, 2, 50), 8).astype(np.float64) * 100
    group = np.full(400, "all")
    scenes = np.repeat(np.arange(50), 8).astype(str)
    each = np.arange(400).astype(str)
    _, low, high = bootstrap_means(values, group, scenes).macro()
    _, low_each, high_each = bootstrap_means(values, group, each).macro()
    assert high - low > 2 * (high_each - low_each)


def test_the_bootstrap_is_deterministic_by_seed():
    frame = noisy(30, seed=3)
    assert summarise(frame, resamples=200, seed=1) == summarise(frame, resamples=200, seed=1)
    other = summarise(frame, resamples=200, seed=2).embodied
    assert other.low != summarise(frame, resamples=200, seed=1).embodied.low


def test_chunks_of_resamples_give_what_one_block_gives(monkeypatch):
    frame = noisy(30, seed=3)
    whole = summarise(frame, resamples=101).embodied
    monkeypatch.setattr("pelican.evaluation.metrics._CHUNK_CELLS", 30 * 7)
    assert summarise(frame, resamples=101).embodied == whole


def test_the_row_order_does_not_matter_to_a_difference():
    before, after = noisy(30, seed=4), noisy(30, seed=5)
    shuffled = before.sample(fraction=1.0, shuffle=True, seed=1)
    assert compare(shuffled, after, resamples=50) == compare(before, after, resamples=50)


def test_only_common_questions_are_compared():
    before, after = frame_of(SMALL[:4]), frame_of(SMALL[2:])
    assert compare(before, after, resamples=20).embodied.n == 2
    assert compare(before, after.tail(1), resamples=20).embodied is None


def test_the_total_of_two_steps_is_their_sum():
    a, b, c = noisy(30, 0), noisy(30, 1), noisy(30, 2)
    total = total_difference([(a, b), (b, c)], "family", resamples=100, seed=0)
    whole, _ = difference(paired(a, c), "family", resamples=100, seed=0)
    assert total.delta == pytest.approx(whole.delta)
    assert total_difference([], "family", resamples=100, seed=0) is None


def test_flips_are_counted_by_family():
    before = frame_of(SMALL)
    after = frame_of([(i, f, s, 1.0 - t if i in "bc" else t) for i, f, s, t in SMALL])
    flips = compare(before, after, resamples=20).embodied_flips
    assert (flips.n, flips.kept, flips.lost, flips.gained) == (6, 3, 1, 1)
    assert flips.lost_by_family == {"counting": 1}
    assert flips.forgotten_share == pytest.approx(0.25)


def test_a_family_missing_from_a_resample_does_not_spoil_the_interval():
    rows = [(f"a{i}", "counting", f"s{i}", float(i % 2)) for i in range(20)]
    summary = summarise(frame_of([*rows, ("p", "planning", "alone", 1.0)]), resamples=200)
    assert np.isfinite([summary.embodied.low, summary.embodied.high]).all()
    assert np.isfinite(summary.families["planning"].low)
