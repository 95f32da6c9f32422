"""The local launcher with real processes; what the stages compute is made (tests/fakes)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pelican.base.files import is_locked, run_alone
from pelican.base.process import is_running, unique_pid
from pelican.errors import InfrastructureError, PelicanError, ResourceError, UserInputError
from pelican.launch.job import CancelledError, Job, JobResult, StageError
from pelican.launch.local import ProcessLauncher
from pelican.monitoring.progress import Event
from pelican.records import Phase
from pelican.stages.fingerprint import finished_manifest
from pelican.stages.stage import StageName, StageSpec
from pelican.storage.manifests import read_manifest
from tests.conftest import World


def job(world: World, stage: StageName = "reward", processes: int = 1, **wish: object) -> Job:
    environment = world.environment(**({stage: wish} if wish else {}))  # type: ignore[arg-type]
    spec = StageSpec(
        stage=stage,
        store=world.store.uri,
        run="test",
        loop=1,
        phase=Phase.RL,
        output=f"runs/test/loop-1/{stage}-rl",
        inputs={"pool": str(world.root / "train")},
        recipe=world.recipe(),
    )
    wanted = ("PYTHONPATH", "PELICAN_FAKE")
    return Job(spec, processes, env={name: environment[name] for name in wanted})


def run(job: Job, **options: float) -> tuple[JobResult, list[Event]]:
    events: list[Event] = []
    launcher = ProcessLauncher(backoff_s=0.01)
    return launcher.run(job, events.append), events


def test_a_stage_runs_and_its_progress_arrives(world: World) -> None:
    result, events = run(job(world))
    assert result.attempts == 1
    assert [output.path for output in result.manifest.outputs] == ["rows.txt"]
    assert events[0] == {
        "stage": "reward", "loop": 1, "phase": "rl", "done": 0, "total": 3, "unit": "things",
    }  # fmt: skip


def test_several_processes_share_a_stage_and_rank_0_commits(world: World) -> None:
    result, _ = run(job(world, "rollout", processes=2))
    assert result.manifest.counts["ranks"] == 2
    assert result.manifest.counts["rollouts"] == 160


def test_a_finished_stage_is_not_done_again(world: World) -> None:
    first, _ = run(job(world))
    again, events = run(job(world, do="crash"))
    assert again.manifest == first.manifest
    assert not events


@pytest.mark.parametrize(
    ("wish", "error", "words", "starts"),
    [
        ("user", UserInputError, "the made input is wrong", 1),
        ("infrastructure", InfrastructureError, "the made store is away", 3),
        ("resource", ResourceError, "the made memory is full", 1),
        ("memory", ResourceError, "a smaller rollout.shard_size", 1),
        ("crash", StageError, "a made bug", 1),
        ("kill", InfrastructureError, "killed by SIGKILL", 3),
    ],
)
def test_failures_are_told_apart(
    world: World, wish: str, error: type[PelicanError], words: str, starts: int
) -> None:
    with pytest.raises(error, match=words) as caught:
        run(job(world, do=wish))
    assert "\n" not in str(caught.value)
    log = world.store.read("runs/test/logs/loop-1-reward-rl.log").decode()
    assert log.count("# ") == starts


def test_what_infrastructure_broke_is_tried_again(world: World) -> None:
    result, _ = run(job(world, do="infrastructure", once=str(world.root / "once")))
    assert result.attempts == 2


def test_one_failing_rank_ends_the_others(world: World) -> None:
    started = time.monotonic()
    wish = {"do": "user", "rank": 1}
    with pytest.raises(UserInputError, match="made input"):
        run(job(world, "rollout", 2, **wish))
    assert time.monotonic() - started < 60
    assert read_manifest(world.store, "runs/test/loop-1/rollout-rl") is None


@pytest.mark.parametrize(
    ("after_s", "error", "words"),
    [
        (1.0, StageError, "a made bug"),
        (600.0, InfrastructureError, "another process of the job is gone"),
    ],
)
def test_a_rank_that_lost_another_does_not_speak_for_it(
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    after_s: float,
    error: type[PelicanError],
    words: str,
) -> None:
    """Rank 0 says at once that a connection broke; rank 1, whose bug it was, ends later, or never."""
    monkeypatch.setattr("pelican.launch.local.CAUSE_S", 5.0 if after_s < 5 else 0.5)
    with pytest.raises(error, match=words):
        ProcessLauncher(attempts=1).run(job(world, "train-rl", 2, do="apart", seconds=after_s))


def wait_for(path: Path, seconds: float = 30.0) -> str:
    deadline = time.monotonic() + seconds
    while not path.exists() or not path.read_text():
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.05)
    return path.read_text()


def gone(pid: int, seconds: float = 10.0) -> bool:
    process = unique_pid(pid)
    deadline = time.monotonic() + seconds
    while is_running(process) and unique_pid(pid) != f"{pid}:":
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def test_cancelling_ends_the_stage(world: World) -> None:
    launcher = ProcessLauncher()
    caught: list[Exception] = []

    def go() -> None:
        try:
            launcher.run(job(world, do="sleep", seconds=60))
        except PelicanError as error:
            caught.append(error)

    thread = threading.Thread(target=go)
    thread.start()
    pid = int(wait_for(world.root / "store/runs/test/loop-1/reward-rl/work/pid"))
    launcher.cancel()
    thread.join(20)
    assert isinstance(caught[0], CancelledError)
    assert gone(pid)


LAUNCH = """
import sys
from pelican.launch.job import Job
from pelican.launch.local import ProcessLauncher
from pelican.stages.stage import StageSpec
spec = StageSpec.model_validate_json(open(sys.argv[1]).read())
ProcessLauncher().run(Job(spec, int(sys.argv[2])))
"""


@pytest.mark.parametrize("processes", [1, 2])
def test_a_killed_launcher_leaves_no_orphan_and_the_next_one_resumes(
    world: World, processes: int
) -> None:
    wanted = job(world, "rollout", processes, do="sleep", seconds=120)
    spec = world.root / "spec.json"
    spec.write_text(wanted.spec.model_dump_json())
    launcher = subprocess.Popen(
        [sys.executable, "-c", LAUNCH, str(spec), str(processes)], env={**os.environ, **wanted.env}
    )
    mark = world.root / "store/runs/test/loop-1/rollout-rl/work/pid"
    pid = int(wait_for(mark))
    os.kill(launcher.pid, signal.SIGKILL)
    launcher.wait()
    assert gone(pid)
    result, _ = run(job(world, "rollout", processes))
    assert finished_manifest(world.store, wanted.spec) == result.manifest


def test_two_launchers_never_run_the_same_stage(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pelican.launch.local.LOCK_WAIT_S", 0.2)
    lock = world.store.local_root("runs/test/logs") / "loop-1-reward-rl.lock"
    with (
        run_alone(lock, "it"),
        pytest.raises(UserInputError, match=rf"being run by process {os.getpid()}"),
    ):
        run(job(world))
    assert not is_locked(lock)


def test_the_lock_holds_while_a_child_that_has_it_lives(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with run_alone(lock, "it") as descriptor:
        child = subprocess.Popen(["sleep", "60"], pass_fds=(descriptor,))
    assert is_locked(lock)
    child.kill()
    child.wait()
    assert not is_locked(lock)


def test_the_log_is_kept_when_the_stage_starts_over(world: World) -> None:
    with pytest.raises(StageError):
        run(job(world, do="crash"))
    run(job(world))
    log = world.store.read("runs/test/logs/loop-1-reward-rl.log").decode()
    assert "KeyError" in log
    assert json.loads(world.store.read("runs/test/logs/loop-1-reward-rl.spec.json"))
