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
from pelican.data.select import loop_samples, stratified, teachable
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
