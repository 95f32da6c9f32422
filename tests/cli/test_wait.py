"""`pelican submit --wait`: what is told of a run that Kubeflow drives."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from pathlib import Path

import pytest

from pelican.commands.wait import EndedStages, wait_in_kubeflow
from pelican.errors import InfrastructureError, UserInputError
from pelican.launch.base import CancelledError
from pelican.launch.kfp_api import Kfp
from pelican.recipes import find_recipe
from pelican.runs import FAILURE, RECIPE, manifests, run_prefix
from pelican.storage.manifests import now
from pelican.storage.objects import FolderStore
from pelican.telemetry.view import PlainView
from tests.launch.test_kfp_client import Backend, backend
from tests.report.made_run import NAME, MadeRun

__all__ = ["backend"]
STAGES = 12


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    store = MadeRun(tmp_path, loops=1, train=12, held_out=6).write()
    recipe = find_recipe("tiny", ["loops=1"])
    store.write(f"{run_prefix(NAME)}/{RECIPE}", recipe.model_dump_json().encode())
    return store


def started(backend: Backend, *states: str) -> str:
    kfp = Kfp()
    run = kfp.start(kfp.experiment("tiny"), "r", "p", "v", {})
    backend.states = list(states)
    return run


def test_stages_are_told_once_and_the_scores_at_the_end(
    store: FolderStore, backend: Backend, capsys: pytest.CaptureFixture[str]
) -> None:
    wait_in_kubeflow(store, NAME, started(backend, "RUNNING", "SUCCEEDED"), STAGES)
    out = capsys.readouterr().out
    found = manifests(store, NAME)
    assert len(re.findall(r"done before \[\d+/12\]", out)) == len(found) > 0
    assert "after SFT" in out and f"run     {NAME}" in out


def test_a_stage_that_ends_meanwhile_is_told_with_its_time_and_score(
    store: FolderStore, capsys: pytest.CaptureFixture[str]
) -> None:
    ended = EndedStages(store, NAME, PlainView(STAGES))
    ended.look()
    last = manifests(store, NAME)[-1]
    assert last.stage == "eval"
    key = f"{run_prefix(NAME)}/loop-{last.loop}/eval-{last.phase}/manifest.json"
    end = now() + timedelta(seconds=60)
    tree = last.model_copy(update={"started": end - timedelta(seconds=7), "finished": end})
    store.write(key, tree.model_dump_json().encode())
    again = EndedStages(store, NAME, PlainView(STAGES))
    capsys.readouterr()
    again.look()
    again.look()
    line = capsys.readouterr().out.strip().splitlines()[-1]
    assert "done in 7 s, embodied" in line


def test_a_store_that_is_away_is_told_and_asked_again(
    store: FolderStore, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def away(*_: object) -> None:
        raise InfrastructureError("the store does not answer")

    ended = EndedStages(store, NAME, PlainView(STAGES))
    with monkeypatch.context() as patch:
        patch.setattr("pelican.commands.wait.manifests", away)
        ended.look_now_and_then()
    assert "the store does not answer" in capsys.readouterr().out
    ended.look()
    assert "done before" in capsys.readouterr().out


def test_what_failed_is_raised_with_its_own_status(store: FolderStore, backend: Backend) -> None:
    failure = {"stage": "preflight", "loop": 0, "phase": "base", "message": "no", "exit_code": 2}
    store.write(f"{run_prefix(NAME)}/{FAILURE}", json.dumps(failure).encode())
    with pytest.raises(UserInputError, match="preflight: no"):
        wait_in_kubeflow(store, NAME, started(backend, "FAILED"), STAGES)
    with pytest.raises(CancelledError):
        wait_in_kubeflow(store, NAME, started(backend, "CANCELED"), STAGES)
    assert store.exists(f"{run_prefix(NAME)}/cancelled.json")
