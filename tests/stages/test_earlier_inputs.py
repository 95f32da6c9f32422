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


@pytest.mark.slow
def test_a_run_finds_there_what_the_layout_names(world: World) -> None:
    """The made stages read all of their inputs."""
    done = world.submit("--run", RUN, overrides=f"loops=3 {KEEP}")
    assert done.returncode == 0, done.stderr
    for loop in (1, 2, 3):
        manifest = read_manifest(world.store, f"runs/{RUN}/loop-{loop}/distill-sft")
        assert manifest is not None
        earlier = [at for name, at in manifest.inputs.items() if name.startswith("earlier-")]
        assert earlier == [f"runs/{RUN}/loop-{k}/distill-sft" for k in range(1, loop)]
