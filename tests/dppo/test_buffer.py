"""The buffer: caps, what it never holds, counts that add up, the same for any order."""

from __future__ import annotations

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pelican.config.recipe import FilterConfig
from pelican.dppo.difficulty import (
    at_least,
    build_buffer,
    intractable_cap,
    success_rates,
    weak_set,
    without_guesses,
)

DIFFICULTY = FilterConfig()


def outcome(rate: float) -> str:
    return "mastered" if rate == 1 else "intractable" if rate == 0 else "practice"


def table(rates: list[float]) -> pl.DataFrame:
    """Rates as `success_rates` and the pool give them."""
    schema = {
        "sample_id": pl.String,
        "success_rate": pl.Float64,
        "mean_reward": pl.Float64,
        "outcome": pl.String,
        "family": pl.String,
        "dimension": pl.String,
    }
    rows = [(f"s{i:04d}", r, 0.9 * r, outcome(r), "counting", "x") for i, r in enumerate(rates)]
    return pl.DataFrame(rows, schema=schema, orient="row")


eighths = st.lists(st.integers(0, 8).map(lambda k: k / 8), max_size=60)
configs = st.builds(
    FilterConfig,
    strategy=st.sampled_from(["difficulty", "random"]),
    intractable_share=st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9]),
    buffer_size=st.none() | st.integers(1, 40),
)


@given(eighths, configs, st.integers(0, 3))
def test_counts_add_up_and_the_limits_hold(
    rates: list[float], config: FilterConfig, seed: int
) -> None:
    buffer = build_buffer(table(rates), config, seed)
    counts, kept = buffer.counts, buffer.rows
    dropped = sum(n for name, n in counts.items() if name.startswith("dropped_"))
    assert counts["buffer"] + dropped == counts["samples"] == len(rates)
    assert counts["mastered"] + counts["practice"] + counts["intractable"] == len(rates)
    assert len(kept) == counts["buffer"] == kept["sample_id"].n_unique()
    assert len(kept) <= (config.buffer_size or len(rates))
    if config.strategy == "difficulty":
        assert (kept["success_rate"] < 1).all()
        weak = kept.filter(pl.col("success_rate") == 0)
        assert len(weak) <= config.intractable_share * len(kept) + 1e-9
        if config.buffer_size is None:
            assert counts["dropped_practice"] == 0


@given(eighths, configs, st.integers(0, 99))
def test_the_order_of_the_rows_does_not_matter(
    rates: list[float], config: FilterConfig, order: int
) -> None:
    rows = table(rates)
    shuffled = rows.sample(fraction=1, shuffle=True, seed=order) if len(rows) else rows
    first, second = build_buffer(rows, config, 5), build_buffer(shuffled, config, 5)
    assert first.rows.equals(second.rows) and first.counts == second.counts


@given(eighths, st.none() | st.integers(1, 40))
def test_random_draws_as_many_as_difficulty(rates: list[float], size: int | None) -> None:
    one = build_buffer(table(rates), FilterConfig(buffer_size=size), 0)
    other = build_buffer(table(rates), FilterConfig(strategy="random", buffer_size=size), 0)
    assert len(one.rows) == len(other.rows)


def test_a_worked_buffer() -> None:
    # 18 to practise: z / (18 + z) <= 0.1 gives z = 2 of the 10 intractable ones.
    buffer = build_buffer(table([1.0] * 5 + [0.5] * 18 + [0.0] * 10), DIFFICULTY, 0)
    assert buffer.counts == {
        "samples": 33,
        "buffer": 20,
        "mastered": 5,
        "practice": 18,
        "intractable": 10,
        "dropped_mastered": 5,
        "dropped_practice": 0,
        "dropped_intractable": 8,
    }


@pytest.mark.parametrize(
    ("practice", "share", "cap"), [(9, 0.1, 1), (8, 0.1, 0), (90, 0.1, 10), (5, 0.5, 5), (5, 0, 0)]
)
def test_the_cap_is_a_share_of_the_final_buffer(practice: int, share: float, cap: int) -> None:
    assert intractable_cap(practice, share) == cap


def test_a_small_buffer_takes_what_is_nearest_to_one_half() -> None:
    rates = [0.125, 0.5, 0.875, 0.375, 0.625, 0.25, 0.0, 1.0]
    buffer = build_buffer(table(rates), FilterConfig(buffer_size=3), 0)
    assert sorted(buffer.rows["success_rate"]) == [0.375, 0.5, 0.625]


def test_the_seed_chooses_among_equals() -> None:
    config = FilterConfig(buffer_size=10)
    ids = [set(build_buffer(table([0.5] * 50), config, s).rows["sample_id"]) for s in (0, 0, 1)]
    assert ids[0] == ids[1] != ids[2]


def test_random_takes_mastered_samples_too() -> None:
    rates = [1.0] * 50 + [0.5] * 50
    buffer = build_buffer(table(rates), FilterConfig(strategy="random"), 0)
    assert 10 < buffer.rows.filter(pl.col("success_rate") == 1).height < 40


def test_nothing_to_practise_gives_an_empty_buffer() -> None:
    buffer = build_buffer(table([0.0] * 5 + [1.0] * 5), DIFFICULTY, 0)
    assert len(buffer.rows) == 0 and buffer.counts["dropped_intractable"] == 5
    assert len(build_buffer(table([]), DIFFICULTY, 0).rows) == 0


def test_the_weak_set_is_what_never_succeeded() -> None:
    weak = weak_set(table([0.0, 0.125, 1.0, 0.0]))
    assert weak["sample_id"].to_list() == ["s0000", "s0003"]
    assert weak.columns == ["sample_id", "success_rate", "mean_reward", "family", "dimension"]


def test_success_rates_by_hand() -> None:
    scores = pl.LazyFrame(
        {
            "sample_id": ["b", "a", "a", "b", "c", "a", "a"],
            "index": [0, 0, 1, 1, 0, 2, 3],
            "success": [True, True, False, True, False, False, False],
            "reward": [1.0, 1.0, 0.1, 0.9, 0.0, 0.1, 0.0],
        }
    )
    rates = success_rates(scores).collect()
    assert rates.to_dicts() == [
        {
            "sample_id": s,
            "success_rate": r,
            "mean_reward": m,
            "rollouts": t,
            "outcome": o,
            "doubled": 0,
        }
        for s, r, m, t, o in [
            ("a", 0.25, 0.3, 4, "practice"),
            ("b", 1.0, 0.95, 2, "mastered"),
            ("c", 0.0, 0.0, 1, "intractable"),
        ]
    ]


# Successes of 8 rollouts, the sample's chance, and what becomes of it at p = 0.1.
DECIDED = [
    (0, 0.25, "intractable"),
    (2, 0.25, "intractable"),  # guessing brings 2 or more in 63 % of draws
    (4, 0.25, "intractable"),  # in 11 %
    (5, 0.25, "practice"),  # in 3 %
    (8, 0.25, "mastered"),
    (5, 0.5, "intractable"),
    (6, 0.5, "intractable"),
    (7, 0.5, "practice"),
    (1, 0.01, "practice"),
    (1, 0.0, "practice"),
    (8, 0.0, "mastered"),
    (3, 1.0, "practice"),  # every guess is right, so nothing can be told
    (8, 0.9, "mastered"),  # 8 of 8 would come in 43 %: nor here
    (4, 0.9, "practice"),
]


def decided(p: float) -> pl.DataFrame:
    rates = table([successes / 8 for successes, _, _ in DECIDED]).with_columns(
        rollouts=pl.lit(8, pl.Int32)
    )
    chances = pl.DataFrame({"id": rates["sample_id"], "chance": [c for _, c, _ in DECIDED]})
    found = without_guesses(rates, chances.sample(fraction=1, shuffle=True, seed=1), p)
    assert found.drop("outcome").equals(rates.drop("outcome"))  # the success rates stay
    return found


def test_successes_that_guessing_explains_are_none() -> None:
    assert decided(0.1)["outcome"].to_list() == [outcome for _, _, outcome in DECIDED]


def test_guesses_go_to_the_teacher_and_never_into_the_buffer() -> None:
    rates = decided(0.1)
    guesses = {f"s{i:04d}" for i in (1, 2, 5, 6)}
    assert set(weak_set(rates)["sample_id"]) == {"s0000", *guesses}
    buffer = build_buffer(rates, FilterConfig(intractable_share=0.5), 0)
    assert not guesses & set(buffer.rows["sample_id"])
    assert "s0000" in set(buffer.rows["sample_id"])
    counts = buffer.counts
    assert (counts["intractable"], counts["dropped_intractable"]) == (5, 4)


@pytest.mark.parametrize(
    ("successes", "rollouts", "chance", "expected"),
    [(0, 8, 0.25, 1.0), (1, 8, 0.0, 0.0), (8, 8, 1.0, 1.0), (1, 4, 0.25, 1 - 0.75**4)],
)
def test_luck_is_the_upper_tail(
    successes: int, rollouts: int, chance: float, expected: float
) -> None:
    assert at_least(successes, rollouts, chance) == pytest.approx(expected)


@given(st.integers(1, 12), st.floats(0, 1))
def test_the_tail_of_the_binomial_is_a_probability_that_falls(n: int, chance: float) -> None:
    tails = [at_least(i, n, chance) for i in range(n + 1)]
    assert tails[0] == pytest.approx(1) and all(-1e-12 <= tail <= 1 + 1e-9 for tail in tails)
    assert tails == sorted(tails, reverse=True)
    assert at_least(n, n, chance) == pytest.approx(chance**n)
