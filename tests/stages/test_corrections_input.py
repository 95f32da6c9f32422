"""The recipe's file of corrections is an input of the stages that read the training pool."""

from __future__ import annotations

import json

import pytest

from pelican.errors import UserInputError
from pelican.launch.step import make_spec
from pelican.runs.preflight import preflight
from pelican.stages.fingerprint import stage_fingerprint
from pelican.stages.stage import Inputs
from tests.conftest import World

RUN = "test"
READERS = ("rollout", "reward", "filter", "train-rl", "distill", "train-sft")


def start(world: World, *lines: dict[str, object]) -> None:
    """A run whose recipe names a file with these corrections."""
    path = world.root / "fixes.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    recipe = world.recipe(f"data.corrections={path}")
    world.store.write(f"runs/{RUN}/recipe.json", recipe.model_dump_json().encode())


@pytest.mark.parametrize("stage", READERS)
def test_other_corrections_are_another_result(world: World, stage: str) -> None:
    inputs = {"policy": str(world.root / "policy")}
    found = []
    for name in ("s00000", "s00001"):
        start(world, {"id": name, "action": "drop"})
        spec = make_spec(world.store, stage, RUN, 1, "rl", inputs)
        assert Inputs.in_store(world.store, spec.inputs).corrections().dropped == {name}
        found.append(stage_fingerprint(world.store, spec))
    assert found[0] != found[1]


def test_the_evaluation_sees_no_corrections(world: World) -> None:
    start(world, {"id": "s00000", "action": "drop"})
    spec = make_spec(world.store, "eval", RUN, 1, "rl", {})
    assert "corrections" not in spec.inputs
    assert not Inputs.in_store(world.store, spec.inputs).corrections()


def test_preflight_counts_them_and_refuses_a_bad_file(world: World) -> None:
    start(world, {"id": "s00000", "action": "drop"}, {"id": "nobody", "action": "drop"})
    path = world.root / "fixes.jsonl"
    recipe = world.recipe(f"data.corrections={path}").model_dump_json()
    preflight(world.store.uri, RUN, recipe)
    found = json.loads(world.store.read(f"runs/{RUN}/preflight.json"))
    assert found["train"]["samples"] == 11
    assert found["train"]["corrected"]["corrected_dropped"] == 1
    assert found["train"]["corrected"]["corrections_unmatched"] == 1
    path.write_text('{"id": "s00000", "action": "forget"}\n')
    with pytest.raises(UserInputError, match="line 1"):
        preflight(world.store.uri, RUN, recipe)


def test_a_file_of_the_store_is_found_by_its_key(world: World) -> None:
    start(world)
    recipe = world.recipe("data.corrections=corrections/fixes.jsonl")
    world.store.write(f"runs/{RUN}/recipe.json", recipe.model_dump_json().encode())
    world.store.write("corrections/fixes.jsonl", b'{"id": "s00002", "action": "drop"}')
    spec = make_spec(world.store, "rollout", RUN, 1, "rl", {"policy": str(world.root / "policy")})
    assert Inputs.in_store(world.store, spec.inputs).corrections().dropped == {"s00002"}


def test_a_file_that_is_nowhere_is_named_by_preflight(world: World) -> None:
    recipe = world.recipe("data.corrections=/nowhere/fixes.jsonl").model_dump_json()
    with pytest.raises(UserInputError, match="nowhere"):
        preflight(world.store.uri, RUN, recipe)
