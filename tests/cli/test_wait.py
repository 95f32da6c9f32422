"""`pelican submit --wait`: what is told of a run that Kubeflow drives."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from pathlib import Path

import pytest

from pelican.cli import submit
from pelican.cli.submit import EndedStages, wait_in_kubeflow
from pelican.config.presets import find_recipe
from pelican.errors import InfrastructureError, PelicanError, UserInputError
from pelican.launch.job import CancelledError
from pelican.launch.kfp import Kfp, RunEndedError
from pelican.monitoring.progress import PlainView
from pelican.report.kubeflow import finish
from pelican.runs.layout import CANCELLED, FAILURE, RECIPE, manifests, run_prefix
from pelican.storage.manifests import commit_manifest
from pelican.storage.store import FolderStore
from tests.launch.test_kfp import Backend, backend
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
    finish(store, NAME, "metaloop", succeeded=True)
    wait_in_kubeflow(store, NAME, started(backend, "RUNNING", "SUCCEEDED"), STAGES)
    out = capsys.readouterr().out
    found = manifests(store, NAME)
    assert len(re.findall(r"done before \[\d+/12\]", out)) == len(found) == STAGES
    assert "after SFT" in out and f"run     {NAME}" in out


def test_a_run_that_kubeflow_calls_a_success_must_be_complete(
    store: FolderStore, backend: Backend
) -> None:
    with pytest.raises(PelicanError, match=f"run {NAME} is not complete: http"):
        wait_in_kubeflow(store, NAME, started(backend, "SUCCEEDED"), STAGES)


def test_a_stage_that_is_made_again_meanwhile_is_told_and_counted_once(
    store: FolderStore, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submit, "LOOK_S", 0.0)
    ended = EndedStages(store, NAME, PlainView(STAGES))
    ended.look_now_and_then()
    last = manifests(store, NAME)[-1]
    assert last.stage == "eval"
    again = last.model_copy(
        update={"started": last.finished, "finished": last.finished + timedelta(seconds=7)}
    )
    commit_manifest(store, f"{run_prefix(NAME)}/loop-{last.loop}/eval-{last.phase}", again)
    capsys.readouterr()
    ended.look_now_and_then()
    ended.look_now_and_then()
    (line,) = capsys.readouterr().out.strip().splitlines()
    assert "done in 7 s, embodied" in line and line.endswith("[12/12]")


@pytest.mark.parametrize(
    "error",
    [InfrastructureError("it is away"), UserInputError("it refuses")],
    ids=["away", "denied"],
)
def test_a_store_that_can_t_be_read_is_told_once_and_asked_again(
    store: FolderStore,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: PelicanError,
) -> None:
    def away(*_: object) -> None:
        raise error

    monkeypatch.setattr(submit, "LOOK_S", 0.0)
    ended = EndedStages(store, NAME, PlainView(STAGES))
    with monkeypatch.context() as patch:
        patch.setattr(submit, "manifests", away)
        ended.look_now_and_then()
        ended.look_now_and_then()
    assert capsys.readouterr().out.count(str(error)) == 1
    ended.look_now_and_then()
    assert capsys.readouterr().out.count("done before") == STAGES


def test_a_look_reads_all_manifests_so_it_is_not_taken_at_each_poll(
    store: FolderStore, capsys: pytest.CaptureFixture[str]
) -> None:
    ended = EndedStages(store, NAME, PlainView(STAGES))
    ended.look_now_and_then()
    store.delete(f"{run_prefix(NAME)}/loop-1/eval-sft/manifest.json")
    ended.look_now_and_then()
    assert capsys.readouterr().out.count("done before") == STAGES


def test_what_failed_is_raised_with_its_own_status_after_what_ended(
    store: FolderStore, backend: Backend, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(RunEndedError, match="ended as FAILED"):
        wait_in_kubeflow(store, NAME, started(backend, "FAILED"), STAGES)
    failure = {"stage": "preflight", "loop": 0, "phase": "base", "message": "no", "exit_code": 2}
    store.write(f"{run_prefix(NAME)}/{FAILURE}", json.dumps(failure).encode())
    capsys.readouterr()
    with pytest.raises(UserInputError, match="preflight: no"):
        wait_in_kubeflow(store, NAME, started(backend, "FAILED"), STAGES)
    out = capsys.readouterr().out
    assert out.count("done before") == STAGES and f"run     {NAME}" in out
    with pytest.raises(CancelledError):
        wait_in_kubeflow(store, NAME, started(backend, "CANCELED"), STAGES)
    assert store.exists(f"{run_prefix(NAME)}/{CANCELLED}")
