"""The loop's fresh subset: deterministic, without overlap, stratified, within the horizon."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pelican.config.recipe import Data, Models, Recipe
from pelican.data.entries import Entry
from pelican.data.pool import PoolIndex
from pelican.data.select import (
    Measure,
    failures_before,
    loop_samples,
    stratified,
    teachable,
    weighted_quotas,
)
from pelican.data.tables import Quarantine
from pelican.errors import UserInputError
from pelican.records import EMBODIED_FAMILIES, Dimension, Family, Phase, Split

HORIZONS = (32.0, 64.0)


def entry(number: int, family: Family, span_s: float, split: Split = Split.TRAIN) -> Entry:
    return Entry(
        id=f"s{number}",
        family=family,
        dimension=Dimension.SPATIAL_GEOMETRIC,
        span_s=span_s,
        scene=f"scene-{number}",
        split=split,
        source="test",
        question="?",
        answer_kind="count",
        clip=span_s > 0,
        shard=number // 50,
        row=number % 50,
    )


@st.composite
def pools(draw: st.DrawFn) -> PoolIndex:
    rows = draw(
        st.lists(
            st.tuples(
                st.sampled_from(EMBODIED_FAMILIES),
                st.sampled_from([0.0, 0.0, 16.0, 48.0, 90.0]),
                st.sampled_from([*[Split.TRAIN] * 8, Split.TEST]),
            ),
            min_size=1,
            max_size=120,
        )
    )
    entries = [entry(i, *row) for i, row in enumerate(rows)]
    return PoolIndex(Path("pool"), (), tuple(entries), Quarantine())


def recipe(size: int | None, seed: int = 0) -> Recipe:
    return Recipe(
        name="test",
        seed=seed,
        models=Models(policy="p", teacher="t"),
        data=Data(
            train="a", replay="b", evaluation="c", general="d",
            horizon_s=HORIZONS, samples_per_loop=size,
        ),
    )  # fmt: skip


def eligible(index: PoolIndex, loop: int) -> list[Entry]:
    horizon = HORIZONS[min(loop, 2) - 1]
    return [e for e in index.entries if e.split is Split.TRAIN and e.span_s <= horizon]


@settings(deadline=None)
@given(pools(), st.integers(1, 40), st.integers(0, 5), st.integers(1, 4))
def test_every_subset_is_of_the_split_the_horizon_and_the_size(
    index: PoolIndex, size: int, seed: int, loop: int
) -> None:
    allowed = eligible(index, loop)
    for phase, wanted in ((Phase.RL, size), (Phase.SFT, 2 * size)):
        if not allowed:
            with pytest.raises(UserInputError, match="within the horizon"):
                loop_samples(index, recipe(size, seed), loop, phase)
            return
        chosen = loop_samples(index, recipe(size, seed), loop, phase).entries
        ids = [e.id for e in chosen]
        assert set(chosen) <= set(allowed)
        assert len(set(ids)) == len(ids) == min(wanted, len(allowed))
        assert ids == [e.id for e in loop_samples(index, recipe(size, seed), loop, phase).entries]
        assert chosen == sorted(chosen, key=lambda e: (e.shard, e.row))


@settings(deadline=None)
@given(pools(), st.integers(1, 12), st.integers(0, 5))
def test_no_sample_comes_again_while_the_pool_lasts(index: PoolIndex, size: int, seed: int) -> None:
    seen: set[str] = set()
    for loop in (1, 2, 3):
        allowed = {e.id for e in eligible(index, loop)}
        if not allowed:
            continue
        rl = {e.id for e in loop_samples(index, recipe(size, seed), loop, Phase.RL).entries}
        both = {e.id for e in loop_samples(index, recipe(size, seed), loop, Phase.SFT).entries}
        assert rl <= both
        if len(allowed - seen) >= 2 * size:
            assert not both & seen
        elif len(allowed - seen) >= size:
            assert not rl & seen
        seen |= both


@settings(deadline=None)
@given(pools(), st.integers(1, 12), st.integers(0, 5), st.integers(1, 6))
def test_what_a_loop_practises_first_was_not_taught_before(
    index: PoolIndex, size: int, seed: int, scenes: int
) -> None:
    """Rows of one scene share their picture: a scene that was taught comes as no fresh one."""
    entries = tuple(replace(e, scene=f"scene-{i // scenes}") for i, e in enumerate(index.entries))
    index = PoolIndex(index.folder, (), entries, Quarantine())
    asked = recipe(size, seed)
    drawn: set[str] = set()
    taught: set[str] = set()
    for loop in range(1, asked.loops + 1):
        if not eligible(index, loop):
            continue
        found = loop_samples(index, asked, loop, Phase.SFT)
        new = [e for e in found.entries if e.scene not in drawn]
        assert found.fresh == len(new)
        assert not {e.scene for e in new} & taught
        left = {e.scene for e in eligible(index, loop)} - drawn
        if found.fresh < len(found.entries):  # only where no other scene was left
            assert left <= {e.scene for e in new}
        drawn |= {e.scene for e in found.entries}
        may, kept = teachable(index, asked, loop)
        assert len(may) + kept == sum(e.span_s <= asked.data.horizon(loop) for e in index.entries)
        taught |= drawn | {e.scene for e in may}


@settings(deadline=None)
@given(pools(), st.integers(1, 60))
def test_a_stratified_part_has_every_family_within_one_row_of_its_share(
    index: PoolIndex, size: int
) -> None:
    part = stratified(index.entries, size)
    whole = Counter(e.family for e in index.entries)
    chosen = Counter(e.family for e in part)
    assert len(part) == min(size, len(index.entries))
    for family, count in whole.items():
        assert abs(chosen[family] - len(part) * count / len(index.entries)) < 1 + 1e-9


def test_the_subset_depends_on_ids_and_not_on_shards() -> None:
    rows = [(i, EMBODIED_FAMILIES[i % 6], 0.0) for i in range(90)]
    one = PoolIndex(Path("p"), (), tuple(entry(*r) for r in rows), Quarantine())
    two = PoolIndex(Path("p"), (), tuple(entry(*r) for r in reversed(rows)), Quarantine())
    for phase in (Phase.RL, Phase.SFT):
        assert (
            loop_samples(one, recipe(12), 2, phase).entries
            == loop_samples(two, recipe(12), 2, phase).entries
        )


def test_without_a_size_both_phases_see_the_whole_horizon() -> None:
    rows = [entry(i, Family.COUNTING, 40.0 * (i % 3)) for i in range(30)]
    index = PoolIndex(Path("p"), (), tuple(rows), Quarantine())
    for phase in (Phase.RL, Phase.SFT):
        assert loop_samples(index, recipe(None), 1, phase).entries == eligible(index, 1)
        assert loop_samples(index, recipe(None), 2, phase).entries == eligible(index, 2)


def test_another_seed_gives_another_subset() -> None:
    rows = [entry(i, EMBODIED_FAMILIES[i % 6], 0.0) for i in range(300)]
    index = PoolIndex(Path("p"), (), tuple(rows), Quarantine())
    subsets = [loop_samples(index, recipe(30, seed), 1, Phase.RL).entries for seed in range(3)]
    assert len({tuple(e.id for e in s) for s in subsets}) == 3


# Draws by what the run has measured.


def by_weakness(size: int, seed: int = 0) -> Recipe:
    made = recipe(size, seed)
    data = made.data.model_copy(update={"draws": "weakness"})
    return made.model_copy(update={"data": data})


SPATIAL = Dimension.SPATIAL_GEOMETRIC.value
RATES = st.dictionaries(
    st.sampled_from([(family.value, SPATIAL) for family in EMBODIED_FAMILIES]),
    st.sampled_from([0.05, 0.3, 0.5, 0.95]),
    max_size=6,
)
MEASURED = st.builds(
    lambda rates: [
        Measure(1 + i // 2, (Phase.RL, Phase.SFT)[i % 2], rate) for i, rate in enumerate(rates)
    ],
    st.lists(RATES, max_size=6),
)


@given(
    st.dictionaries(st.integers(0, 9), st.tuples(st.integers(0, 30), st.floats(0.01, 1))),
    st.floats(0, 1),
)
def test_shares_by_weight_add_up_and_ask_for_no_more_than_there_is(
    strata: dict[int, tuple[int, float]], share: float
) -> None:
    counts = {code: count for code, (count, _) in strata.items()}
    weights = {code: weight for code, (_, weight) in strata.items()}
    size = int(share * sum(counts.values()))
    quota = weighted_quotas(counts, weights, size)
    assert sum(quota.values()) == size
    assert all(0 <= quota[code] <= counts[code] for code in counts)
    for one in counts:
        for other in counts:
            if quota[one] < counts[one] and quota[other] < counts[other]:
                ratio = [quota[i] / (counts[i] * weights[i]) for i in (one, other)]
                slack = sum(1 / (counts[i] * weights[i]) for i in (one, other))
                assert abs(ratio[0] - ratio[1]) <= slack + 1e-6


def test_the_shares_of_a_worked_draw() -> None:
    assert weighted_quotas({0: 100, 1: 100}, {0: 0.8, 1: 0.2}, 50) == {0: 40, 1: 10}
    assert weighted_quotas({0: 20, 1: 100}, {0: 0.8, 1: 0.2}, 50) == {0: 20, 1: 30}


def test_the_newest_measure_before_a_draw_counts() -> None:
    measures = [
        Measure(1, Phase.SFT, {("a", "x"): 0.2}),
        Measure(1, Phase.RL, {("a", "x"): 0.9, ("b", "x"): 0.4}),
    ]
    assert failures_before(measures, 1, Phase.RL) == {}
    assert failures_before(measures, 1, Phase.SFT) == {("a", "x"): 0.9, ("b", "x"): 0.4}
    assert failures_before(measures, 2, Phase.RL) == {("a", "x"): 0.2, ("b", "x"): 0.4}


@settings(deadline=None)
@given(pools(), st.integers(1, 12), st.integers(0, 3), MEASURED)
def test_draws_by_weakness_are_fresh_and_depend_on_what_was_measured_before_them(
    index: PoolIndex, size: int, seed: int, measures: list[Measure]
) -> None:
    asked = by_weakness(size, seed)
    seen: set[str] = set()
    taught: set[str] = set()
    for loop in (1, 2, 3):
        allowed = {e.id for e in eligible(index, loop)}
        if not allowed:
            continue
        before = [m for m in measures if m.loop < loop]
        early = [*before, *(m for m in measures if m.loop == loop and m.phase is Phase.RL)]
        rl = loop_samples(index, asked, loop, Phase.RL, before)
        both = loop_samples(index, asked, loop, Phase.SFT, early)
        assert rl == loop_samples(index, asked, loop, Phase.RL, measures[::-1])
        assert both == loop_samples(index, asked, loop, Phase.SFT, measures)
        first, ids = {e.id for e in rl.entries}, {e.id for e in both.entries}
        assert first <= ids <= allowed
        assert len(first) == min(size, len(allowed)) and len(ids) == min(2 * size, len(allowed))
        if len(allowed - seen) >= 2 * size:
            assert not ids & seen
        assert not {e.id for e in both.entries if e.id not in seen} & taught
        seen |= ids
        may, kept = teachable(index, asked, loop, ids)
        assert {e.id for e in may} == (
            ids
            if loop < asked.loops
            else {e.id for e in index.entries if e.span_s <= asked.data.horizon(loop)}
        )
        assert len(may) + kept == sum(e.span_s <= asked.data.horizon(loop) for e in index.entries)
        taught |= {e.id for e in may}


def test_what_fails_most_is_drawn_most() -> None:
    rows = [entry(i, EMBODIED_FAMILIES[i % 2], 0.0) for i in range(400)]
    index = PoolIndex(Path("p"), (), tuple(rows), Quarantine())
    strong, weak = (family.value for family in EMBODIED_FAMILIES[:2])
    measures = [Measure(1, Phase.RL, {(strong, SPATIAL): 0.1, (weak, SPATIAL): 0.9})]

    def families(loop: int, phase: Phase) -> Counter[str]:
        found = loop_samples(index, by_weakness(50), loop, phase, measures).entries
        return Counter(e.family.value for e in found)

    assert families(1, Phase.RL) == {strong: 25, weak: 25}  # nothing was measured yet
    assert families(1, Phase.SFT) == {strong: 25 + 5, weak: 25 + 45}
    # Of 170 and 130 fresh rows that are left.
    assert families(2, Phase.RL) == {strong: 6, weak: 44}


def test_without_the_field_measures_count_for_nothing() -> None:
    rows = [entry(i, EMBODIED_FAMILIES[i % 6], 0.0) for i in range(90)]
    index = PoolIndex(Path("p"), (), tuple(rows), Quarantine())
    measures = [Measure(1, Phase.RL, {(EMBODIED_FAMILIES[0].value, SPATIAL): 0.9})]
    for phase in (Phase.RL, Phase.SFT):
        plain = loop_samples(index, recipe(12), 2, phase)
        assert loop_samples(index, recipe(12), 2, phase, measures) == plain
        assert loop_samples(index, by_weakness(12), 2, phase) == plain  # nothing was measured
