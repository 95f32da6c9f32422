"""An imported pool in a metaloop: preflight takes it and names its version, the horizon grows."""

from __future__ import annotations

import json
from pathlib import Path

from pelican.config.recipe import Recipe
from pelican.data.pool import read_index
from pelican.data.select import loop_samples
from pelican.data.versions import read_version
from pelican.records import Phase
from pelican.runs.preflight import preflight
from pelican.stages.stage import input_digest
from tests.conftest import World
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
        {e.id for e in loop_samples(index, recipe, loop, Phase.RL) if e.clip} for loop in (1, 2)
    ]
    assert clips == [{"lab/clip-24"}, {"lab/clip-24", "lab/clip-56"}]


def test_a_version_and_the_link_to_it_are_the_same_input(world: World, tmp_path: Path) -> None:
    pool = imported(lab(tmp_path / "lab"), tmp_path / "pool").pool
    assert input_digest(world.store, str(pool)) == input_digest(world.store, str(pool.resolve()))
