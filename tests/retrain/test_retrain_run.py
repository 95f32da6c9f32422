"""A retraining as a whole: the graph, its steps, registry and gate are real, the stages are made."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pelican.registry.models import list_versions, read_aliases
from pelican.retrain.records import read_verdict
from pelican.runs.layout import list_runs, manifests
from tests.conftest import ROOT, World
from tests.data.factory import general, sample, write_pool

FAKES = Path(__file__).parent / "fakes"
SMALL = "rollout.workers=1 rl.processes=1 sft.processes=1 loops=1 retrain.held_share=0.4"


@pytest.fixture
def fleet(world: World) -> World:
    """A world whose model `tiny` is registered, and new data beside it."""
    write_pool(world.root / "new", [sample(n) for n in range(1000, 1100)])
    write_pool(world.root / "evaluation", [sample(n, split="test") for n in range(200, 260)])
    write_pool(world.root / "general", [general(n, split="test") for n in range(300, 340)])
    world.env["PYTHONPATH"] = os.pathsep.join([str(FAKES), str(ROOT)])
    done = pelican(world, "models", "add", "tiny", str(world.root / "policy"))
    assert "tiny:1  current" in done.stdout, done.stderr
    return world


def pelican(world: World, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        world.command(*arguments),
        env={**world.environment(), **env},
        capture_output=True,
        text=True,
    )


def retrain(world: World, kind: str, **env: str) -> subprocess.CompletedProcess[str]:
    sets = " ".join([*world.overrides, *SMALL.split()])
    data = str(world.root / "new")
    arguments = ["submit", "--pipeline", "retrain", "--data", data, "--from", "tiny"]
    return pelican(world, *arguments, "--set", sets, PELICAN_MADE_DATA=kind, **env)


def only_run(world: World) -> str:
    (run,) = {submission.run for submission in list_runs(world.store)}
    return run


@pytest.mark.slow
def test_what_is_better_is_promoted_once(fleet: World) -> None:
    done = retrain(fleet, "hard")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "verdict tiny:2 is current" in done.stdout
    aliases = read_aliases(fleet.store, "tiny")
    assert (aliases.candidate, aliases.current, aliases.previous) == (None, 2, 1)
    newest = list_versions(fleet.store, "tiny")[0]
    run = only_run(fleet)
    lineage = newest.lineage
    assert (lineage.parent, lineage.run) == ("tiny:1", run)
    assert [(use.samples, use.held_samples) for use in lineage.data] == [(60, 40)]
    assert lineage.recipe and lineage.ledgers and "embodied" not in lineage.code
    assert fleet.store.read(f"{newest.checkpoint}/model.safetensors") == b"1 sft"
    card = pelican(fleet, "models", "show", "tiny").stdout
    assert "passed: gain" in card and f"run: {run}" in card
    finished = {m.stage for m in manifests(fleet.store, run)}
    assert finished == {"rollout", "reward", "filter", "train-rl", "distill", "train-sft", "eval"}
    again = retrain(fleet, "hard")
    assert re.search(r"tiny:2 has learned from new-\w+ already", again.stdout), again.stderr
    assert [v.version for v in list_versions(fleet.store, "tiny")] == [2, 1]


@pytest.mark.slow
def test_what_the_model_masters_already_stops_at_the_diagnosis(fleet: World) -> None:
    done = retrain(fleet, "mastered")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nothing to learn; tiny:1 stays current" in done.stdout
    assert {m.stage for m in manifests(fleet.store, only_run(fleet))} == {
        "rollout",
        "reward",
        "filter",
    }
    assert "is complete" in retrain(fleet, "mastered").stdout


@pytest.mark.slow
def test_what_forgets_or_has_wrong_labels_is_refused_unless_a_person_overrides(
    fleet: World,
) -> None:
    done = retrain(fleet, "poisoned")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "refused; tiny:1 stays current" in done.stdout
    verdict = read_verdict(fleet.store, only_run(fleet))
    assert verdict is not None and verdict.outcome == "refused"
    assert {reason.split(":")[0].split(" ")[0] for reason in verdict.reasons} >= {
        "few",  # questions: the made families are small, and judged together
        "labels",
    }
    aliases = read_aliases(fleet.store, "tiny")
    assert (aliases.candidate, aliases.current) == (2, 1)
    refused = pelican(fleet, "models", "promote", "tiny:candidate")
    assert refused.returncode == 2 and "--override" in refused.stderr
    reason = "the field needs it"
    assert (
        "current tiny:2"
        in pelican(fleet, "models", "promote", "tiny:2", "--override", reason).stdout
    )
    shown: dict[str, Any] = json.loads(pelican(fleet, "models", "show", "tiny", "--json").stdout)
    assert [d["kind"] for d in shown["decisions"]] == ["override", "gate"]
    assert shown["decisions"][0]["reason"] == reason
    assert "current tiny:1" in pelican(fleet, "models", "rollback", "tiny").stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["submit", "--pipeline", "retrain"], "needs new data and a model"),
        (["retrain", "--data", "/nowhere", "--from", "tiny"], "neither a data version"),
        (["retrain", "--data", "samples/dev", "--from", "other"], "there is no model 'other'"),
        (["models", "rollback", "tiny"], "no previous version"),
    ],
)
def test_a_mistake_is_one_sentence(fleet: World, arguments: list[str], words: str) -> None:
    found = pelican(fleet, *arguments)
    assert found.returncode == 2 and words in found.stderr
    assert "Traceback" not in found.stderr
