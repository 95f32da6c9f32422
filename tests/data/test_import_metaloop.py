"""An imported pool in a metaloop: preflight takes it and names its version, the horizon grows."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pelican.config.recipe import Recipe
from pelican.data.checks import check
from pelican.data.pool import read_index
from pelican.data.select import loop_samples
from pelican.data.versions import changed_since_import, read_version
from pelican.errors import UserInputError
from pelican.records import Phase
from pelican.runs.preflight import preflight
from pelican.stages.stage import input_digest
from tests.conftest import World
from tests.data.factory import sample, write_pool
from tests.data.formats.world import image, imported, video, write_json


def lab(root: Path) -> Path:
    """RoboPoint's style with relative paths: four stills, a clip of 24 s and one of 56 s."""
    rows = []
    for i in range(4):
        image(root / "images" / f"{i}.jpg", seed=i)
        rows.append((f"still-{i}", f"images/{i}.jpg", "How many cups are on the table?", str(i)))
    for length in (24, 56):
        video(root / "clips" / f"{length}.mp4", length, fps=1, seed=length)
        rows.append((f"clip-{length}", f"clips/{length}.mp4", "Did the grasp succeed?", "Yes"))
    write_json(
        root / "train.json",
        [
            {
                "id": name,
                "messages": [
                    {"role": "user", "content": question},
                    {"role": "assistant", "content": answer},
                ],
                "images": [path],
            }
            for name, path, question, answer in rows
        ],
    )
    return root


def recipe_of(world: World, pool: Path) -> Recipe:
    recipe = world.recipe()
    data = recipe.data.model_copy(update={"train": str(pool), "samples_per_loop": None})
    return recipe.model_copy(update={"data": data})


def test_preflight_takes_the_pool_and_names_its_version(world: World, tmp_path: Path) -> None:
    pool = imported(lab(tmp_path / "lab"), tmp_path / "pool").pool
    version = read_version(pool)
    preflight(world.store.uri, "mine", recipe_of(world, pool).model_dump_json())
    report = json.loads(world.store.read("runs/mine/preflight.json"))
    assert version and report["train"]["version"] == version.id
    assert (report["train"]["samples"], report["train"]["quarantined"]) == (6, {})
    assert report["replay"]["version"] is None


def test_the_horizon_grows_from_loop_1_to_loop_2(world: World, tmp_path: Path) -> None:
    pool = imported(lab(tmp_path / "lab"), tmp_path / "pool").pool
    index, recipe = read_index(pool), recipe_of(world, pool)
    clips = [
        {e.id for e in loop_samples(index, recipe, loop, Phase.RL).entries if e.clip}
        for loop in (1, 2)
    ]
    assert clips == [{"lab/clip-24"}, {"lab/clip-24", "lab/clip-56"}]


def test_a_version_and_the_link_to_it_are_the_same_input(world: World, tmp_path: Path) -> None:
    pool = imported(lab(tmp_path / "lab"), tmp_path / "pool").pool
    assert input_digest(world.store, str(pool)) == input_digest(world.store, str(pool.resolve()))


def flip(shard: Path) -> None:
    """Another byte inside, as a disk that rots has it: size, mode and times are as they were."""
    state, data = shard.stat(), bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.chmod(0o644)
    shard.write_bytes(bytes(data))
    shard.chmod(state.st_mode)
    os.utime(shard, ns=(state.st_atime_ns, state.st_mtime_ns))


def add(shard: Path) -> None:
    write_pool(shard.parent, [sample(7)])


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "flipped": (flip, "was changed after the import"),
    "gone": (Path.unlink, "is gone"),
    "added": (add, "was added after the import"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_pool_that_changed_after_its_import_is_told_by_preflight_and_by_check(
    change: str, world: World, tmp_path: Path
) -> None:
    pool = imported(lab(tmp_path / "lab"), tmp_path / "pool").pool
    recipe = recipe_of(world, pool).model_dump_json()
    preflight(world.store.uri, "mine", recipe)  # what it finds is kept in the store
    spoil, words = CHANGES[change]
    spoil(sorted(pool.glob("*.parquet"))[0])
    assert [words in fault for fault in changed_since_import(pool)] == [True]
    with pytest.raises(UserInputError, match=f"^data.train: .* {words} in .*; a version never"):
        preflight(world.store.uri, "mine", recipe)
    if change == "added":  # else no shard is left that opens
        assert check(pool, [], near=10).findings.counts["changed"] == 1
