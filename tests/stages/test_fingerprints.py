"""A finished stage is done again exactly if something that it reads of the recipe has changed."""

from __future__ import annotations

import pytest

from pelican.config.overrides import describe, fields
from pelican.config.presets import find_recipe
from pelican.config.recipe import Recipe
from pelican.config.stages import STAGES
from pelican.records import Phase
from pelican.stages.fingerprint import stage_fingerprint
from pelican.stages.stage import StageName, StageSpec
from tests.conftest import World


def fingerprint(world: World, stage: StageName, recipe: Recipe, phase: Phase = Phase.RL) -> str:
    spec = StageSpec(
        stage=stage,
        store=world.store.uri,
        run="test",
        loop=1,
        phase=phase,
        output=f"runs/test/loop-1/{stage}-rl",
        inputs={},
        recipe=recipe,
    )
    return stage_fingerprint(world.store, spec)


@pytest.mark.parametrize("stage", ["train-rl", "train-sft"])
@pytest.mark.parametrize(
    ("override", "again"),
    [
        ("data.max_pixels=1000", True),
        ("data.horizon_s=8,16", False),
        ("data.samples_per_loop=7", False),
        ("data.train=elsewhere", False),  # its content is an input
        ("data.general=elsewhere", False),
        ("models.teacher=elsewhere", False),
        ("seed=1", True),
        ("model.freeze_vision=false model.cache_vision=false", True),
    ],
)
def test_training_depends_on_what_it_reads_of_the_recipe(
    world: World, stage: StageName, override: str, again: bool
) -> None:
    before = fingerprint(world, stage, find_recipe("tiny"))
    after = fingerprint(world, stage, find_recipe("tiny", [override]))
    assert (before != after) == again


@pytest.mark.parametrize(
    ("stage", "phase", "again"),
    [
        ("train-rl", Phase.RL, True),
        ("reward", Phase.RL, True),
        ("reward", Phase.SFT, False),
        ("eval", Phase.RL, False),
        ("distill", Phase.SFT, False),
        ("filter", Phase.RL, False),
    ],
)
def test_flips_count_for_what_rl_learns_from(
    world: World, stage: StageName, phase: Phase, again: bool
) -> None:
    recipes = [find_recipe("tiny", [f"reward.flip={share}"]) for share in (0.1, 0.25, 0.0)]
    found = [fingerprint(world, stage, recipe, phase) for recipe in recipes]
    assert len(set(found)) == (3 if again else 1)
    assert fingerprint(world, stage, find_recipe("tiny"), phase) == found[-1]


def test_every_part_that_counts_is_one_of_the_recipe() -> None:
    known = {*Recipe.model_fields, *fields(find_recipe("tiny"))}
    parts = {part for row in STAGES.values() for part in row.result}
    assert parts <= known
    assert all(describe(part) for part in parts if "." in part)
