"""The command line: quick to import, sentences instead of tracebacks, one run from end to end."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from pelican.runs import layout, outcome
from tests.conftest import World

HEAVY = ("torch", "transformers", "kfp", "vllm", "polars", "pyarrow", "numpy", "datasets")


@pytest.mark.parametrize("module", ["pelican.cli.main", "pelican.config.recipe", "pelican.records"])
def test_importing_the_command_line_imports_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print(*[m for m in {HEAVY!r} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["submit", "--recipe", "tyni"], "did you mean 'tiny'?"),
        (["submit", "--set", "loops=many"], "expected a whole number"),
        (["submit", "--pipeline", "metalop"], "did you mean 'metaloop'?"),
        (["submit", "--launcher", "moon"], "there is no launcher 'moon'"),
        (["submit", "--run", "Not A Name"], "lower-case letters"),
        (["show", "nothing"], "there is no run 'nothing'"),
        (["report", "nothing"], "there is no run 'nothing'"),
        (["stage", "rewards", "--spec", "x.json"], "did you mean 'reward'?"),
        (["stage", "reward", "--spec", "/nowhere.json"], "/nowhere.json cannot be read"),
    ],
)
def test_a_mistake_is_one_sentence_and_status_2(
    world: World, arguments: list[str], words: str
) -> None:
    found = subprocess.run(
        world.command(*arguments), env=world.environment(), capture_output=True, text=True
    )
    assert found.returncode == 2
    assert words in found.stderr
    assert found.stderr.startswith("error: ")
    assert "Traceback" not in found.stderr


def run_name(output: str) -> str:
    found = re.search(r"^run +(\S+) ", output, re.MULTILINE)
    assert found, output
    return found[1]


def show(world: World, run: str) -> dict[str, Any]:
    found = subprocess.run(
        world.command("show", run, "--json"),
        env=world.environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    tree: dict[str, Any] = json.loads(found.stdout)
    return tree


def test_the_gate_ends_a_run_early_and_that_is_complete(world: World) -> None:
    wish = {"loop-1/eval-rl": {"do": "stop"}}
    done = world.submit(overrides="loops=2 sft.enabled=false", **wish)
    assert done.returncode == 0, done.stdout + done.stderr
    tree = show(world, run_name(done.stdout))
    assert tree["state"] == "complete"
    assert [(e["loop"], e["phase"]) for e in tree["scores"]] == [(0, "base"), (1, "rl")]


def test_a_failed_stage_fails_the_run_with_its_sentence_and_the_same_command_goes_on(
    world: World,
) -> None:
    failed = world.submit("--pipeline", "evaluate", eval={"do": "user"})
    assert failed.returncode == 2
    assert "error: eval, loop 0 base: the made input is wrong" in failed.stderr
    run = run_name(failed.stdout)
    assert show(world, run)["state"] == "failed"
    done = world.submit("--pipeline", "evaluate")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"run {run} was not finished and continues" in done.stdout
    listed = subprocess.run(
        world.command("runs"), env=world.environment(), capture_output=True, text=True, check=True
    )
    assert re.search(rf"{run} +evaluate +complete .* 40.0 -> 40.0", listed.stdout)


def test_kill_9_of_the_command_leaves_no_process_and_the_same_command_resumes(
    world: World,
) -> None:
    environment = world.environment(train_rl={"do": "sleep", "seconds": 900})
    command = subprocess.Popen(
        world.submit_command("--run", "killed", overrides="loops=1"),
        env=environment,
        stdout=subprocess.DEVNULL,
    )
    mark = world.root / "store/runs/killed/loop-1/train-rl-rl/work/pid"
    deadline = time.monotonic() + 300
    while not mark.exists() or not mark.read_text():
        assert time.monotonic() < deadline and command.poll() is None
        time.sleep(0.1)
    stage = int(mark.read_text())
    before = layout.manifests(world.store, "killed")
    assert [m.stage for m in before] == ["eval", "rollout", "reward", "filter"]
    os.kill(command.pid, signal.SIGKILL)
    command.wait()
    deadline = time.monotonic() + 30
    while Path(f"/proc/{stage}").exists():
        assert time.monotonic() < deadline, "the stage outlives the command"
        time.sleep(0.1)
    done = world.submit("--run", "killed", overrides="loops=1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "rollout    done before" in done.stdout
    assert "loop 1, after SFT" in done.stdout
    assert layout.manifests(world.store, "killed")[:4] == before
    tree = show(world, "killed")
    assert tree["state"] == "complete"
    entries = [(e["loop"], e["phase"], e["embodied"]) for e in tree["scores"]]
    assert entries == [(0, "base", 40.0), (1, "rl", 44.0), (1, "sft", 48.0)]
    assert len(tree["counts"]) == 2
    assert len(tree["durations"]) == 12
    summary = json.loads(world.store.read("runs/killed/summary.json"))
    assert outcome.summary_metrics(summary)["embodied gain"] == 8.0


def test_recipe_show_prints_the_resolved_tree(world: World) -> None:
    found = subprocess.run(
        world.command("recipe", "show", "tiny+threshold(0.5)", "--set", "loops=2"),
        env=world.environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert re.search(r"^loops +2 ", found.stdout, re.MULTILINE)
    assert re.search(r"^rl.stop.threshold +0.5 ", found.stdout, re.MULTILINE)
