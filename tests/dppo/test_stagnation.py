"""Stagnation: the formula by hand, its monotony, when RL stops, and resuming."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pelican.config.recipe import ProbeConfig, RlConfig, StopConfig
from pelican.dppo.stagnation import ProbeTracker, StagnationTracker, Trend

rates = st.floats(0, 1)


def tracker(**changes: float) -> StagnationTracker:
    return StagnationTracker(StopConfig(**changes), min_steps=20, max_steps=400)


def test_a_worked_example() -> None:
    watch = tracker()  # ema 0.5, delta 1
    first = watch.update({"counting": 0.5, "planning": 1.0})
    assert first.tasks == {"counting": 0.0, "planning": 0.5}  # no change is known yet
    second = watch.update({"counting": 0.75, "planning": 1.0})
    # counting: SR = 0.625, change 0.125: 0.5 * 0.25 + 0.5 * 0.875 = 0.5625; planning: 1
    assert second.tasks == pytest.approx({"counting": 0.5625, "planning": 1.0})
    assert second.mean == pytest.approx(0.78125)
    third = watch.update({"counting": 0.875})
    # SR = 0.75, change 0.125: 0.25 + 0.4375 = 0.6875; planning keeps its state
    assert third.tasks == pytest.approx({"counting": 0.6875, "planning": 1.0})


def test_delta_scales_the_rate_of_change() -> None:
    watch = tracker(ema=1.0, delta=0.2)
    watch.update({"a": 0.5})
    assert watch.update({"a": 0.6}).tasks["a"] == pytest.approx(0.5 * 0.2 + 0.5 * 0.5)
    assert watch.update({"a": 0.9}).tasks["a"] == pytest.approx(0.5 * 0.8 + 0)


@given(rates, rates)
def test_a_still_task_stagnates_more_the_nearer_it_is_to_an_extreme(a: float, b: float) -> None:
    watch = tracker()
    for _ in range(2):
        value = watch.update({"a": a, "b": b})
    assert (abs(2 * a - 1) >= abs(2 * b - 1)) == (value.tasks["a"] >= value.tasks["b"])


@given(st.lists(st.dictionaries(st.sampled_from("abc"), rates), max_size=8))
def test_stagnation_is_within_bounds(windows: list[dict[str, float]]) -> None:
    watch = tracker()
    for window in windows:
        value = watch.update(window)
        assert 0 <= value.mean <= 1 and all(0 <= v <= 1 for v in value.tasks.values())


def test_it_stops_at_the_threshold_but_not_before_min_steps() -> None:
    watch = tracker()
    assert watch.stop_reason(20) is None
    for _ in range(2):
        watch.update({"a": 1.0})
    assert watch.stop_reason(19) is None
    assert watch.stop_reason(20) == "stagnation"


def test_it_goes_on_below_the_threshold_until_max_steps() -> None:
    watch = tracker()
    for _ in range(5):
        watch.update({"a": 0.5})  # TS = 0.5 < 0.7
    assert watch.stop_reason(399) is None
    assert watch.stop_reason(400) == "max_steps"


def test_a_mean_of_exactly_the_threshold_stops() -> None:
    watch = tracker(threshold=0.7)
    for _ in range(2):
        watch.update({"a": 0.7})  # 0.5 * 0.4 + 0.5
    assert watch.stop_reason(20) == "stagnation"


def test_one_window_is_no_evidence_of_standing_still() -> None:
    watch = tracker()
    watch.update({"a": 1.0})
    assert watch.stop_reason(20) is None


@given(st.lists(st.dictionaries(st.sampled_from("abc"), rates), min_size=1, max_size=6))
def test_the_state_survives_a_checkpoint(windows: list[dict[str, float]]) -> None:
    straight, resumed = tracker(), tracker()
    for window in windows[:-1]:
        straight.update(window)
    resumed.load_state_dict(json.loads(json.dumps(straight.state_dict())))
    assert resumed.update(windows[-1]) == straight.update(windows[-1])


@pytest.mark.parametrize("bad", [1.5, -0.1, float("nan")])
def test_a_rate_outside_its_bounds_is_refused_and_changes_nothing(bad: float) -> None:
    watch = tracker()
    with pytest.raises(ValueError, match="task 'b'"):
        watch.update({"a": 0.5, "b": bad})
    assert watch.value().tasks == {}


def test_the_recipe_gives_the_bounds() -> None:
    watch = StagnationTracker.of(RlConfig(min_steps=3, max_steps=9))
    assert (watch.min_steps, watch.max_steps) == (3, 9)


def by_samples(**changes: float) -> StagnationTracker:
    return StagnationTracker(StopConfig(of="samples", **changes), min_steps=0, max_steps=400)


def test_samples_that_are_all_or_nothing_stagnate_though_their_mean_is_a_half() -> None:
    """What the buffer of a run looks like: of a family as many right as wrong, and nothing moves."""
    window = {"counting": 0.5}
    samples = {"counting": {"a": 1.0, "b": 0.0, "c": 1.0, "d": 0.0, "e": 0.5}}
    of_families, of_samples = tracker(delta=0.1), by_samples(delta=0.1)
    for _ in range(3):
        of_families.update(window)
        of_samples.update(window, samples)
    assert of_families.value().mean == pytest.approx(0.5)  # its ceiling here
    assert of_samples.value().mean == pytest.approx(0.5 * 0.8 + 0.5)
    assert of_families.stop_reason(30) is None
    assert of_samples.stop_reason(30) == "stagnation"


def test_a_sample_is_averaged_over_windows_and_kept_while_it_is_not_drawn() -> None:
    watch = by_samples(ema=0.5)
    watch.update({"a": 0.5}, {"a": {"x": 0.5, "y": 1.0}})
    now = watch.update({"a": 0.5}, {"a": {"x": 1.0}})
    # x: (0 + 1) / 2, y: 1, so 0.75 on average; no change
    assert now.tasks["a"] == pytest.approx(0.5 * 0.75 + 0.5)


def test_samples_survive_a_checkpoint_and_an_old_one_has_none() -> None:
    before, after = by_samples(), by_samples()
    for _ in range(2):
        before.update({"a": 0.5}, {"a": {"x": 0.0, "y": 1.0}})
    after.load_state_dict(json.loads(json.dumps(before.state_dict())))
    assert after.value() == before.value()
    old = {name: value for name, value in before.state_dict().items() if name != "extremes"}
    after.load_state_dict(old)
    assert after.value().mean == pytest.approx(0.5)


# The held-out probe.


def probe(windows: int = 4, **bounds: int) -> ProbeTracker:
    config = StopConfig(of="probe", probe=ProbeConfig(windows=windows, steps=25))
    return ProbeTracker(config, **{"min_steps": 0, "max_steps": 400, **bounds})


def asked(watch: ProbeTracker, *rates: dict[str, dict[str, float]]) -> ProbeTracker:
    for number, rate in enumerate(rates):
        watch.update(25 * number, rate)
    return watch


def shifted(by: float, seed: int = 0) -> dict[str, dict[str, float]]:
    """Two tasks of 20 questions of all difficulties, their rates moved and drawn with noise."""
    rng = np.random.default_rng(seed)
    return {
        task: {
            f"{task}{i}": float(np.clip(i / 20 + by + rng.normal(0, 0.1), 0, 1)) for i in range(20)
        }
        for task in ("counting", "planning")
    }


def test_held_out_success_that_rises_goes_on_and_one_that_stands_still_stops() -> None:
    rising = asked(probe(), *(shifted(0.08 * k, seed=k) for k in range(4)))
    still = asked(probe(), *(shifted(0.0, seed=k) for k in range(4)))
    trend = rising.trend()
    assert trend is not None and trend.rises and trend.slope == pytest.approx(0.08 / 25, rel=0.25)
    assert rising.stop_reason(75) is None
    flat = still.trend()
    assert flat is not None and abs(flat.slope) < 3 * flat.error
    falling = asked(probe(), *(shifted(-0.08 * k, seed=k) for k in range(4)))
    assert falling.stop_reason(75) == "probe"


def test_the_slope_is_of_the_newest_probes_alone() -> None:
    watch = asked(probe(3), *({"a": {"x": r, "y": r}} for r in (0.0, 0.4, 0.8, 0.8, 0.8)))
    assert watch.trend() == Trend(0.0, 0.0)
    assert watch.stop_reason(100) == "probe"


def test_a_probe_needs_its_windows_and_min_steps_and_max_steps_bound_it() -> None:
    same = {"a": {"x": 0.5, "y": 0.5}}
    assert asked(probe(), same, same, same).stop_reason(50) is None
    assert asked(probe(min_steps=100), same, same, same, same).stop_reason(75) is None
    assert probe(max_steps=75).stop_reason(75) == "max_steps"


def test_the_error_is_of_the_questions_slopes() -> None:
    """By hand: slopes of -1, 1, 3 a step give a mean of 1 and an error of 2 / sqrt(3)."""
    watch = ProbeTracker(
        StopConfig(probe=ProbeConfig(windows=3, steps=1)), min_steps=0, max_steps=9
    )
    for step in range(3):
        watch.update(step, {"a": {"x": -1.0 * step, "y": 1.0 * step, "z": 3.0 * step}})
    trend = watch.trend()
    assert trend is not None
    assert (trend.slope, trend.error) == pytest.approx((1.0, 2 / 3**0.5))


def test_a_probe_is_due_every_so_many_steps_once_also_after_resuming() -> None:
    watch = probe()
    assert watch.is_due(0) and not watch.is_due(10)
    watch.update(0, {"a": {"x": 0.5}})
    assert not watch.is_due(0) and watch.is_due(25)
    again = probe()
    again.load_state_dict(json.loads(json.dumps(watch.state_dict())))
    assert not again.is_due(0) and again.is_due(25)
