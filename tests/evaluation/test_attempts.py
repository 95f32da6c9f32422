"""p@k, votes and luck against hand-worked numbers, and what intervals must guarantee."""

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pelican.evaluation.attempts import (
    majority,
    paired_interval,
    pass_at,
    share_interval,
)


@pytest.mark.parametrize(
    ("k", "successes", "attempts"),
    [(k, c, n) for n in (1, 2, 5) for k in range(1, n + 1) for c in range(n + 1)],
)
def test_pass_at_is_the_share_of_draws_that_hold_a_success(
    k: int, successes: int, attempts: int
) -> None:
    draws = list(itertools.combinations([1] * successes + [0] * (attempts - successes), k))
    assert pass_at(k, successes, attempts) == pytest.approx(sum(map(any, draws)) / len(draws))


@pytest.mark.parametrize(("k", "successes", "attempts"), [(0, 1, 4), (5, 1, 4), (1, 5, 4)])
def test_pass_at_of_more_than_there_are_is_refused(k: int, successes: int, attempts: int) -> None:
    with pytest.raises(ValueError, match="not defined"):
        pass_at(k, successes, attempts)


@pytest.mark.parametrize(
    ("answers", "values", "earned"),
    [
        (["red", "Red.", "blue"], [1.0, 1.0, 0.0], 1.0),
        (["red", "blue", "blue"], [1.0, 0.0, 0.0], 0.0),
        (["red", "blue"], [1.0, 0.0], 0.5),  # a tie is broken at random
        (["", "", "red"], [0.0, 0.0, 1.0], 1.0),  # who says nothing does not vote
        (["", ""], [0.0, 0.0], 0.0),
        ([], [], 0.0),
        (["a", "b", "a", "b", "c"], [1.0, 0.0, 1.0, 0.0, 0.0], 0.5),
    ],
)
def test_the_commonest_answer_counts(
    answers: list[str], values: list[float], earned: float
) -> None:
    assert majority(answers, values) == earned


@given(st.integers(0, 300), st.integers(0, 300))
def test_a_share_lies_in_its_interval_which_is_never_a_point(successes: int, more: int) -> None:
    n = successes + more
    share = successes / n if n else 0.0
    low, high = share_interval(share, n)
    assert 0 <= low <= share + 1e-12 and share - 1e-12 <= high <= 1
    assert high - low > 0.01


def test_more_scenes_tell_more() -> None:
    widths = [high - low for low, high in (share_interval(0.3, n) for n in (1, 10, 100, 1000))]
    assert widths == sorted(widths, reverse=True)


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    draw = random.Random(0)
    share, paired = 0, 0
    for _ in range(400):
        hits = [draw.random() < 0.9 for _ in range(60)]
        low, high = share_interval(sum(hits) / 60, 60)
        share += low <= 0.9 <= high
        moved = [float(draw.choices([1, -1, 0], [0.2, 0.1, 0.7])[0]) for _ in range(60)]
        _, low, high = paired_interval(moved, [str(i) for i in range(60)])
        paired += low <= 0.1 <= high
    assert share > 370 and paired > 370


def test_questions_of_one_scene_are_no_evidence_of_their_own() -> None:
    values = [1.0, 0.0] * 20
    _, low, high = paired_interval(values, [str(i) for i in range(40)])
    _, low_in_4, high_in_4 = paired_interval(values, [str(i // 10) for i in range(40)])
    assert high_in_4 - low_in_4 > high - low
    assert paired_interval([], []) == (0.0, -1.0, 1.0)
    mean, low, high = paired_interval([0.0] * 200, [str(i) for i in range(200)])
    assert mean == 0 and low < 0 < high
