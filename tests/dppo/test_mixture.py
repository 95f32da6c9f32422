"""The mixture: ratio as an upper bound, no held-out row, every row with its origin."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from pelican.config.recipe import DistillConfig
from pelican.data.entries import Entry
from pelican.dppo.distillation import (
    COPIES,
    Origin,
    TeacherRow,
    by_need,
    mix,
    parts_of,
    plan,
    plan_uniform,
    shares,
)
from pelican.dppo.retrieval import TextEmbedder, associate
from pelican.records import Dimension, Family, Split
from tests.dppo.test_retrieval import entry

ORIGINS: tuple[Origin, ...] = ("weak", "assoc", "general")
SIZES = st.integers(0, 60)
RATIOS = st.tuples(*[st.sampled_from([0.0, 0.5, 1.0, 3.0])] * 3)
CONFIGS = st.builds(
    DistillConfig,
    ratio=RATIOS,
    max_rows=st.none() | st.integers(1, 200),
    only_replay=st.booleans(),
    neighbours=st.integers(1, 6),
)


def answered(origin: Origin, number: int, accepted: bool = True) -> TeacherRow:
    return TeacherRow(
        sample_id=f"{origin}{number}",
        origin=origin,
        pool="replay" if origin == "general" else "pool",
        family=Family.GENERAL if origin == "general" else Family.COUNTING,
        dimension=Dimension.SPATIAL_GEOMETRIC,
        source="test",
        answer_text=f"<think>a</think><answer>{number}</answer>",
        accepted=accepted,
        reason="" if accepted else "wrong",
        score=float(accepted),
        tries=4,
        accepted_tries=2 * accepted,
        tokens=40,
        weak_id="weak0" if origin != "general" else "",
        similarity=0.5,
    )


@given(SIZES, SIZES, SIZES, CONFIGS)
def test_the_ratio_is_an_upper_bound_and_no_row_comes_more_than_twice(
    weak: int, assoc: int, general: int, config: DistillConfig
) -> None:
    there: dict[Origin, int] = {"weak": weak, "assoc": assoc, "general": general}
    rows = shares(there, config)
    assert all(0 <= rows[o] <= COPIES * there[o] for o in ORIGINS)
    if config.max_rows is not None:
        assert sum(rows.values()) <= config.max_rows
    if config.only_replay or not weak + assoc:
        assert not rows["weak"] and not rows["assoc"]
        limit = config.max_rows if config.max_rows is not None else general
        assert rows["general"] == min(2 * general, limit)
        return
    parts = dict(zip(ORIGINS, config.ratio, strict=True))
    if config.max_rows is not None:
        for o in ORIGINS:
            share = parts[o] / (sum(config.ratio) or 1) * config.max_rows
            assert rows[o] <= share + 1e-6
            assert rows[o] == 2 * there[o] or rows[o] > share - 1
    else:
        # Nothing verified of what is led by is lost, and what lacks rows is not filled by another.
        for o in ("weak", "assoc"):
            assert not parts[o] or rows[o] >= there[o] or rows[o] == 2 * there[o]


def test_one_to_one_to_one_as_documented() -> None:
    config = DistillConfig()
    few: dict[Origin, int] = {"weak": 65, "assoc": 520, "general": 400}
    many: dict[Origin, int] = {"weak": 300, "assoc": 100, "general": 1000}
    assert shares(few, config) == {"weak": 130, "assoc": 520, "general": 520}
    assert shares(many, config) == {"weak": 300, "assoc": 200, "general": 300}
    capped = DistillConfig(max_rows=900)
    assert shares(few, capped) == {"weak": 130, "assoc": 300, "general": 300}


@settings(deadline=None)
@given(SIZES, SIZES, SIZES, CONFIGS, st.integers(0, 9))
def test_every_row_of_the_mixture_was_accepted_and_says_where_it_came_from(
    weak: int, assoc: int, general: int, config: DistillConfig, seed: int
) -> None:
    sizes = {"weak": weak, "assoc": assoc, "general": general}
    rows = [answered(o, i, accepted=i % 3 != 2) for o in ORIGINS for i in range(sizes[o])]
    good = {(r.pool, r.sample_id): r for r in rows if r.accepted}
    mixture = mix(rows, config, "teacher-8b", f"salt{seed}")
    accepted = Counter(r.origin for r in good.values())
    expected = shares({o: accepted[o] for o in ORIGINS}, config)
    assert Counter(r.origin for r in mixture) == {o: n for o, n in expected.items() if n}
    assert [r.row for r in mixture] == list(range(len(mixture)))
    assert len({(r.pool, r.sample_id, r.repeat) for r in mixture}) == len(mixture)
    for row in mixture:
        source = good[row.pool, row.sample_id]
        assert (row.origin, row.completion) == (source.origin, source.answer_text)
        assert (row.tries, row.score, row.source) == (4, 1.0, "test")
        assert row.teacher == "teacher-8b"
        assert row.weak_id or row.origin == "general"
    for origin in ORIGINS:  # nothing is repeated before everything stands once
        copies = Counter(r.sample_id for r in mixture if r.origin == origin)
        assert not copies or max(copies.values()) - min(copies.values()) <= 1
    assert mixture == mix(rows, config, "teacher-8b", f"salt{seed}")


SPLITS = st.sampled_from([Split.TRAIN, Split.TRAIN, Split.DEV, Split.TEST])


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(list(Dimension)[:2]), SPLITS), max_size=40),
    st.lists(SPLITS, max_size=30),
    CONFIGS,
)
def test_the_teacher_is_asked_about_all_weak_rows_and_no_held_out_one(
    rows: list[tuple[Dimension, Split]], replay_splits: list[Split], config: DistillConfig
) -> None:
    pool = [entry(i, "How many?", *row) for i, row in enumerate(rows)]
    replay: list[Entry] = [entry(i, split=split) for i, split in enumerate(replay_splits)]
    weak = [e for e in pool if e.split is Split.TRAIN][:5]
    related = associate(weak, pool, TextEmbedder(), config.neighbours, "salt")
    requests = plan(weak, related, replay, config, "salt")
    assert all(r.entry.split is Split.TRAIN for r in requests)
    assert len({(r.pool, r.entry.id) for r in requests}) == len(requests)
    of = Counter(r.origin for r in requests)
    assert of["weak"] == (0 if config.only_replay else len(weak))
    assert of["assoc"] <= config.neighbours * len(weak)
    if config.only_replay or not weak:
        assert set(of) <= {"general"}
        free = replay_splits.count(Split.TRAIN)
        wanted = free if config.max_rows is None else min(free, config.max_rows)
        assert of["general"] >= wanted


FAMILIES = st.sampled_from([Family.COUNTING, Family.PLANNING, Family.TEMPORAL])


@given(
    st.lists(st.tuples(FAMILIES, st.sampled_from([0.0, 0.1, 0.4])), max_size=50), st.integers(0, 3)
)
def test_whatever_a_budget_reaches_has_each_familys_share_and_what_is_furthest_from_a_success(
    rows: list[tuple[Family, float]], seed: int
) -> None:
    weak = [replace(entry(i), family=family) for i, (family, _) in enumerate(rows)]
    rewards = {e.id: reward for e, (_, reward) in zip(weak, rows, strict=True)}
    ordered = by_need(weak, rewards, f"salt{seed}")
    assert sorted(e.id for e in ordered) == sorted(e.id for e in weak)
    assert ordered == by_need(weak[::-1], rewards, f"salt{seed}")
    there = Counter(e.family for e in weak)
    for count in range(1, len(ordered)):
        asked = Counter(e.family for e in ordered[:count])
        for family, size in there.items():
            assert abs(asked[family] - count * size / len(weak)) <= len(there) / 2
    for family in there:
        of = [rewards[e.id] for e in ordered if e.family is family]
        assert of == sorted(of)


@given(st.lists(SPLITS, max_size=60), st.lists(SPLITS, max_size=30), CONFIGS)
def test_random_samples_have_the_share_of_what_is_weak_and_related(
    splits: list[Split], replay_splits: list[Split], config: DistillConfig
) -> None:
    config = config.model_copy(update={"prompts": "uniform", "only_replay": False})
    pool = [entry(i, split=split) for i, split in enumerate(splits)]
    replay = [entry(i, split=split) for i, split in enumerate(replay_splits)]
    requests = plan_uniform(pool, replay, config, "salt")
    assert requests == plan_uniform(pool[::-1], replay[::-1], config, "salt")
    assert all(r.entry.split is Split.TRAIN for r in requests)
    assert len({(r.pool, r.entry.id) for r in requests}) == len(requests)
    assert {(r.origin, r.pool) for r in requests} <= {("uniform", "pool"), ("general", "replay")}
    assert parts_of(config) == {
        "uniform": config.ratio[0] + config.ratio[1],
        "general": config.ratio[2],
    }
    of = Counter(r.origin for r in requests)
    if of["uniform"] and config.max_rows is None:
        assert of["uniform"] == splits.count(Split.TRAIN)


def test_random_samples_are_not_those_of_another_loop() -> None:
    pool = [entry(i) for i in range(300)]
    config = DistillConfig(prompts="uniform", max_rows=60, ratio=(1.0, 3.0, 0.0))
    asked = [{r.entry.id for r in plan_uniform(pool, [], config, salt)} for salt in ("1", "2")]
    assert [len(ids) for ids in asked] == [84, 84] and asked[0] != asked[1]
