"""Whole made runs whose evaluations are judged by the real gate: what passes, and what is offered then."""

from __future__ import annotations

import json
from typing import Any

from pelican.records import Split
from pelican.runs.layout import manifests
from tests.conftest import World
from tests.data.factory import sample, write_pool

RUN = "made"
# The base answers at once; loop 1 thinks and gains; loop 2 keeps the score and loses the thought.
COLLAPSE = {
    "do": "answer",
    "base": {"wrong": 40, "think": 0},
    "loop-1": {"wrong": 20, "think": 41},
    "loop-2": {"wrong": 20, "think": 0},
}


def summary(world: World) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(world.store.read(f"runs/{RUN}/summary.json"))
    return found


def show(world: World, *more: str) -> str:
    import subprocess

    done = subprocess.run(
        world.command("show", RUN, *more),
        env=world.environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def test_a_collapse_in_loop_2_fails_and_the_run_offers_the_policy_of_loop_1(world: World) -> None:
    done = world.submit("--run", RUN, overrides="loops=3", eval=COLLAPSE)
    assert done.returncode == 0, done.stdout + done.stderr
    tree = summary(world)
    assert tree["state"] == "complete"
    assert [(e["loop"], e["phase"]) for e in tree["scores"] if not e["go_on"]] == [
        (2, "rl"),
        (2, "sft"),
    ]
    assert max(e["loop"] for e in tree["scores"]) == 2  # no third loop
    assert [(e["loop"], e["phase"]) for e in tree["scores"] if e["offered"]] == [(1, "sft")]
    assert tree["policy"] == f"runs/{RUN}/loop-1/train-sft-sft/checkpoint"
    said = (
        "the gate refused the policy of loop 2, after SFT; the run offers that of loop 1, after SFT"
    )
    assert tree["offer"] == said
    assert said in done.stdout and said in show(world)
    assert "thinking: 0.00 times the length of loop 1" in show(world)
    page = (world.root / f"store/runs/{RUN}/report.html").read_text()
    assert f"{said[0].upper()}{said[1:]}." in page


def test_the_sealed_set_is_read_once_at_the_end_by_the_base_and_the_chosen_policy(
    world: World,
) -> None:
    """The graph with `data.dev`, and that it goes on where it was cut off."""
    write_pool(world.root / "dev", [sample(i, split=Split.DEV) for i in range(400, 406)])
    sets = f"loops=2 data.dev={world.root}/dev"
    done = world.submit("--run", RUN, overrides=sets, eval=COLLAPSE)
    assert done.returncode == 0, done.stdout + done.stderr
    evaluated = {(m.loop, m.phase): m for m in manifests(world.store, RUN) if m.stage == "eval"}
    pools = {place: m.inputs["evaluation"].rpartition("/")[2] for place, m in evaluated.items()}
    assert pools == {
        (0, "base"): "dev",
        (1, "rl"): "dev",
        (1, "sft"): "dev",
        (2, "rl"): "dev",
        (2, "sft"): "dev",
        (0, "start"): "evaluation",
        (0, "end"): "evaluation",
    }
    chosen = f"runs/{RUN}/loop-1/train-sft-sft/checkpoint"
    assert evaluated[0, "end"].inputs["policy"] == chosen
    assert evaluated[0, "start"].inputs["policy"] == evaluated[0, "base"].inputs["policy"]
    tree = summary(world)
    assert tree["state"] == "complete" and len(tree["sealed"]) == 2
    assert [e["phase"] for e in tree["scores"]] == ["base", "rl", "sft", "rl", "sft"]
    assert tree["sealed"][1]["against"]["base"]["embodied"]["delta"] > 30
    assert "final, sealed" in show(world)
    page = (world.root / f"store/runs/{RUN}/report.html").read_text()
    assert "On the sealed set, which no gate read, from the base to loop 1 SFT" in page
    assert "Base to loop 1 SFT, sealed set" in page

    before = {m.fingerprint for m in manifests(world.store, RUN)}
    world.store.delete(f"runs/{RUN}/loop-0/eval-end")
    world.store.delete(f"runs/{RUN}/summary.json")
    again = world.submit("--run", RUN, overrides=sets, eval=COLLAPSE)
    assert again.returncode == 0, again.stdout + again.stderr
    assert {m.fingerprint for m in manifests(world.store, RUN)} == before
