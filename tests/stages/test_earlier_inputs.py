"""What a run made before is an input of the stages that read it, named by the run's layout."""

from __future__ import annotations

import pytest

from pelican.launch.step import make_spec
from pelican.runs.layout import earlier_inputs
from pelican.storage.manifests import read_manifest
from tests.conftest import World

RUN = "test"
KEEP = "distill.keep_rows=true"


@pytest.mark.parametrize(
    ("overrides", "loop", "places"),
    [
        ("", 3, []),
        (KEEP, 1, []),
        (KEEP, 3, ["loop-1/distill-sft", "loop-2/distill-sft"]),
        (f"{KEEP} rl.enabled=false distill.prompts=uniform", 2, ["loop-1/distill-sft"]),
    ],
)
def test_distill_reads_what_it_made_in_earlier_loops(
    world: World, overrides: str, loop: int, places: list[str]
) -> None:
    recipe = world.recipe(overrides)
    found = earlier_inputs(recipe, RUN, "distill", loop, "sft")
    assert list(found.values()) == [f"runs/{RUN}/{place}" for place in places]
    assert list(found) == sorted(found)
    world.store.write(f"runs/{RUN}/recipe.json", recipe.model_dump_json().encode())
    spec = make_spec(world.store, "distill", RUN, loop, "sft", {"policy": "p", "weak": "w"})
    assert {name: at for name, at in spec.inputs.items() if name in found} == found
    assert not earlier_inputs(recipe, RUN, "train-sft", loop, "sft")


WEAKNESS = "data.draws=weakness"
FIRST, SECOND = "loop-1/filter-rl", "loop-1/filter-sft"


@pytest.mark.parametrize(
    ("overrides", "loop", "phase", "places"),
    [
        ("", 2, "rl", []),
        (WEAKNESS, 1, "rl", []),
        (WEAKNESS, 1, "sft", [FIRST]),
        (WEAKNESS, 2, "rl", [FIRST, SECOND]),
        (WEAKNESS, 2, "sft", [FIRST, SECOND, "loop-2/filter-rl"]),
        (f"{WEAKNESS} rl.enabled=false", 2, "sft", [SECOND]),
        (f"{WEAKNESS} sft.enabled=false", 2, "rl", [FIRST]),
        (f"{WEAKNESS} retrain.data=d retrain.parent=m:1", 0, "base", []),
        (f"{WEAKNESS} retrain.data=d retrain.parent=m:1", 1, "rl", ["loop-0/filter-base"]),
    ],
)
def test_rollouts_by_weakness_read_every_ledger_of_before(
    world: World, overrides: str, loop: int, phase: str, places: list[str]
) -> None:
    found = earlier_inputs(world.recipe(overrides), RUN, "rollout", loop, phase)
    assert list(found.values()) == [f"runs/{RUN}/{place}" for place in places]
    assert list(found) == sorted(found)


@pytest.mark.slow
def test_a_run_finds_there_what_the_layout_names(world: World) -> None:
    """The made stages read all of their inputs."""
    done = world.submit("--run", RUN, overrides=f"loops=3 {KEEP} {WEAKNESS}")
    assert done.returncode == 0, done.stderr
    for loop in (1, 2, 3):
        manifest = read_manifest(world.store, f"runs/{RUN}/loop-{loop}/distill-sft")
        assert manifest is not None
        earlier = [at for name, at in manifest.inputs.items() if name.startswith("earlier-")]
        assert earlier == [f"runs/{RUN}/loop-{k}/distill-sft" for k in range(1, loop)]
        mined = read_manifest(world.store, f"runs/{RUN}/loop-{loop}/rollout-sft")
        assert mined is not None
        assert len([name for name in mined.inputs if name.startswith("earlier-")]) == 2 * loop - 1
