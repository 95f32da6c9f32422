"""Stagnation: the formula by hand, its monotony, when RL stops, and resuming."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pelican.config.recipe import RlConfig, StopConfig
from pelican.dppo.stagnation import StagnationTracker

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
