"""Intake and practice: what is usable, what is held out, what the loops train on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pelican.config.recipe import RetrainConfig
from pelican.data.pool import read_index
from pelican.data.tables import read_samples, write_table
from pelican.errors import UserInputError
from pelican.records import Sample, Split
from pelican.registry.models import Lineage, register
from pelican.retrain.data import Sources, compose, diagnose, replay, take_in
from pelican.retrain.records import Intake, find_version
from pelican.retrain.steps import _old_pools
from pelican.storage.store import FolderStore
from tests.conftest import World
from tests.data.factory import raw_row, sample, write_pool, write_raw

PREFIX = "runs/r/retrain/intake"
_NO_POOLS: dict[str, list[Path]] = {"train": [], "held": [], "dev": []}


def take(world: World, folder: Path, *overrides: str, **old: list[Path]) -> Intake:
    sides = {**_NO_POOLS, **old}
    version = find_version(world.store, str(folder))
    return take_in(world.store, version, world.recipe(*overrides), PREFIX, sides)


def side(world: World, name: str) -> list[Sample]:
    return list(read_samples(world.store.local(f"{PREFIX}/{name}")))


def test_scenes_are_held_out_whole_and_ids_are_new(world: World, tmp_path: Path) -> None:
    rows = [sample(n, id=f"{n}-{k}", scene=f"kitchen-{n}") for n in range(20) for k in range(3)]
    facts = take(world, write_pool(tmp_path / "new", rows))
    train, held = side(world, "train"), side(world, "held")
    assert (len(train), len(held)) == (45, 15) == (facts.samples, facts.held_samples)
    assert not {s.scene for s in train} & {s.scene for s in held}
    assert {s.split for s in held} == {Split.TEST} and {s.split for s in train} == {Split.TRAIN}
    assert all(s.id.startswith(f"{facts.version}/") for s in [*train, *held])
    assert {s.benchmark for s in held} == {facts.version}
    again = take(world, tmp_path / "new")
    assert again == facts  # the same scenes every time


@pytest.mark.parametrize(("scenes", "held"), [(3, 1), (8, 4), (12, 5), (50, 10)])
def test_as_many_scenes_are_held_out_as_the_gate_wants_to_see(
    world: World, tmp_path: Path, scenes: int, held: int
) -> None:
    take(world, write_pool(tmp_path / "new", [sample(n) for n in range(scenes)]))
    assert len(side(world, "held")) == held
    assert len(side(world, "train")) == scenes - held


def test_a_test_split_of_the_data_itself_is_what_is_held_out(world: World, tmp_path: Path) -> None:
    rows = [sample(n, split=Split.TEST if n < 4 else Split.TRAIN) for n in range(12)]
    take(world, write_pool(tmp_path / "new", rows))
    assert sorted(s.scene for s in side(world, "held")) == [f"scene-{n}" for n in range(4)]


def test_broken_rows_and_files_are_quarantined_and_told(world: World, tmp_path: Path) -> None:
    folder = tmp_path / "new"
    write_pool(folder, [sample(n) for n in range(10)])
    bad: list[dict[str, Any]] = [
        raw_row(20, answer="{"),
        raw_row(21, images=[{"bytes": b"no image", "path": None}]),
        raw_row(3),  # an id that is there already
    ]
    write_raw(folder / "part-100.parquet", bad)
    (folder / "part-200.parquet").write_bytes(b"no parquet")
    facts = take(world, folder)
    assert facts.quarantined == {"answer": 1, "duplicate_id": 1, "image_unreadable": 1}
    assert [fault.key for fault in facts.faults] == ["part-200.parquet"]
    assert (facts.rows, facts.unusable, facts.samples + facts.held_samples) == (14, 4, 10)


def test_data_of_which_nothing_is_usable_ends_in_a_sentence(world: World, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "part.parquet").write_bytes(b"no parquet")
    with pytest.raises(UserInputError, match=r"no usable sample.*part\.parquet"):
        take(world, tmp_path / "new")


def test_an_object_that_changed_since_is_not_taken(world: World, tmp_path: Path) -> None:
    folder = write_pool(tmp_path / "new", [sample(n) for n in range(10)], per_shard=5)
    version = find_version(world.store, str(folder))
    write_pool(folder, [sample(n + 50) for n in range(5)])
    facts = take_in(world.store, version, world.recipe(), PREFIX, _NO_POOLS)
    assert [(f.key, "changed" in f.reason) for f in facts.faults] == [("part-000.parquet", True)]
    assert facts.samples + facts.held_samples == 5


@pytest.mark.parametrize("where", ["train", "held", "dev"])
def test_a_scene_may_not_be_on_both_sides(world: World, tmp_path: Path, where: str) -> None:
    rows = [sample(n, split=Split.TEST if n == 0 else Split.TRAIN) for n in range(6)]
    other = Split.TRAIN if where == "train" else Split.TEST
    number = 0 if where == "train" else 3
    old = write_pool(tmp_path / "old", [sample(number, id="o", split=other)])
    with pytest.raises(UserInputError, match=f"scene-{number}"):
        take(world, write_pool(tmp_path / "new", rows), **{where: [old]})


def test_new_data_may_not_hold_the_questions_of_a_probe(world: World, tmp_path: Path) -> None:
    lineage = Lineage(origin="imported", source="elsewhere")
    parent = register(world.store, "m", world.root / "policy", lineage)
    dev = write_pool(tmp_path / "dev", [sample(400, split=Split.DEV)])
    asked = f"data.dev={dev}"
    assert _old_pools(world.store, world.recipe(asked), parent)["dev"] == []
    probing = world.recipe(asked, "rl.stop.of=probe")
    assert _old_pools(world.store, probing, parent)["dev"] == [dev]


def ledger(rates: dict[str, float]) -> pl.DataFrame:
    outcome = [
        "mastered" if r == 1 else "intractable" if r == 0 else "practice" for r in rates.values()
    ]
    return pl.DataFrame(
        {
            "sample_id": list(rates),
            "success_rate": list(rates.values()),
            "outcome": outcome,
            "family": ["counting"] * len(rates),
        }
    )


@pytest.mark.parametrize(
    ("rates", "go_on"),
    [
        ([1.0] * 100, False),
        ([1.0] * 81 + [0.0] * 19, False),  # fewer than 20
        ([1.0] * 80 + [0.25] * 20, True),
        ([0.5] * 100, False),  # not below the limit
        ([1.0] * 480 + [0.0] * 20, False),  # 4 %
    ],
)
def test_when_there_is_a_weakness(rates: list[float], go_on: bool) -> None:
    found = diagnose(ledger({f"s{i}": r for i, r in enumerate(rates)}), RetrainConfig())
    assert found.go_on is go_on
    assert str(len(rates)) in found.reason and found.weak == sum(r < 0.5 for r in rates)


def test_practice_is_what_is_not_mastered_and_what_was_learned_before(
    world: World, tmp_path: Path
) -> None:
    new = write_pool(tmp_path / "new", [sample(n, id=f"v/{n}") for n in range(10)])
    held = write_pool(tmp_path / "held", [sample(n, id=f"v/{n}") for n in range(10, 13)])
    old = write_pool(tmp_path / "old", [sample(n) for n in range(100, 130)])
    before = tmp_path / "ledger.parquet"
    hard = {f"s{n:05d}": 0.0 for n in range(100, 104)}
    write_table(before, ledger(hard | {"s00120": 1.0}).to_arrow())
    rates = ledger({f"v/{n}": 1.0 if n < 4 else 0.0 for n in range(10)})
    recipe = world.recipe("retrain.min_weak=1")
    sources = Sources(new, held, [old], [world.root / "evaluation"], [before])
    prefix = "runs/r/retrain/practice"
    found = compose(world.store, diagnose(rates, recipe.retrain), rates, sources, recipe, prefix)
    assert (found.new_rows, found.replayed_rows, found.held_rows) == (6, 6, 9)
    ids = {s.id for s in read_samples(world.store.local(f"{prefix}/train"))}
    assert {f"v/{n}" for n in range(4, 10)} | set(hard) <= ids and len(ids) == 12


@given(size=st.integers(0, 40), hard=st.sets(st.integers(0, 29)))
def test_replay_takes_the_hard_ones_first_and_never_one_twice(
    pool_of_30: FolderStore, size: int, hard: set[int]
) -> None:
    entries = read_index(pool_of_30.root).entries
    names = {f"s{n:05d}" for n in hard}
    chosen = [e.id for e in replay(entries, names, size, "salt")]
    assert len(chosen) == len(set(chosen)) == min(size, 30)
    assert len(names & set(chosen)) == min(size, len(names))


@pytest.fixture(scope="module")
def pool_of_30(tmp_path_factory: pytest.TempPathFactory) -> FolderStore:
    folder = tmp_path_factory.mktemp("pool")
    return FolderStore(write_pool(folder, [sample(n) for n in range(30)]))


class Remote(FolderStore):
    """A store that another machine reads: nothing of this machine's folders is there."""

    remote = True

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.uri = f"made://{root}"


def test_a_folder_is_uploaded_to_a_remote_store(tmp_path: Path) -> None:
    folder = write_pool(tmp_path / "new", [sample(n) for n in range(4)], per_shard=2)
    store = Remote(tmp_path / "store")
    version = find_version(store, str(folder))
    assert version.source == store.uri and len(version.objects) == 2
    for delivered in version.objects:
        assert store.read_tagged(delivered.key)[1] == delivered.tag
    assert find_version(store, str(folder)) == version == find_version(store, version.name)
