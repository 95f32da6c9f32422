"""What a run says, and with which status, that was struck from outside; and how the same command heals."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from pelican.cli.submit import _unsaid
from pelican.runs import layout
from tests.conftest import ROOT, World

OVERRIDES = "loops=1 rollout.workers=1"


def began(world: World, **wishes: dict) -> subprocess.Popen[str]:
    """A run that waits in its first rollout."""
    wishes = wishes or {"rollout": {"do": "sleep", "seconds": 900}}
    command = subprocess.Popen(
        world.submit_command("--run", "struck", overrides=OVERRIDES),
        env=world.environment(**wishes),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    mark = world.root / "store/runs/struck/loop-1/rollout-rl/work/pid"
    deadline = time.monotonic() + 300
    while not mark.exists() or not mark.read_text():
        assert time.monotonic() < deadline and command.poll() is None
        time.sleep(0.1)
    return command


def child(command: subprocess.Popen[str], word: str) -> psutil.Process:
    """The process below the command that has this word, whole, in its command line."""
    for process in psutil.Process(command.pid).children(recursive=True):
        if word in process.cmdline():
            return process
    raise AssertionError(f"no process with {word}")


STRIKES: dict[str, tuple[str, int, str]] = {
    "the pipeline is killed": ("pipelines.run", signal.SIGKILL, "was killed by SIGKILL"),
    "a component is killed": ("kfp.dsl.executor_main", signal.SIGKILL, "was ended from outside"),
    "a component is ended": ("kfp.dsl.executor_main", signal.SIGTERM, "was ended by SIGTERM"),
}


@pytest.mark.slow
@pytest.mark.parametrize("strike", STRIKES)
def test_a_process_that_is_ended_is_75_and_the_same_command_continues(
    world: World, strike: str
) -> None:
    word, number, told = STRIKES[strike]
    command = began(world)
    os.kill(child(command, word).pid, number)
    _, said = command.communicate(timeout=120)
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert command.returncode == 75 and len(errors) == 1, said
    assert told in errors[0] and "the same command continues" in errors[0], said
    assert "Traceback" not in said


@pytest.mark.slow
def test_the_same_command_heals_every_damaged_record_of_a_run(world: World) -> None:
    first = world.submit("--run", "struck", overrides=OVERRIDES)
    assert first.returncode == 0, first.stderr
    store, before = world.store, layout.manifests(world.store, "struck")
    run = store.root / "runs/struck"
    records = [run / name for name in ("run.json", "summary.json", "preflight.json")]
    records += [run / "failure.json", *(store.root / "cache/preflight").glob("*.json")]
    for path, damage in zip(records, itertools.cycle((b"{}", b"[" * 200_000)), strict=False):
        path.write_bytes(damage)
    again = world.submit("--run", "struck", overrides=OVERRIDES)
    assert again.returncode == 0, again.stdout + again.stderr
    assert layout.manifests(store, "struck") == before
    assert layout.state(store, "struck") == "complete"
    assert layout.read_submission(store, "struck").run == "struck"
    (run / "recipe.json").write_bytes(b'{"half": ')
    again = world.submit("--run", "struck", overrides=OVERRIDES)
    assert again.returncode == 0, again.stdout + again.stderr
    assert layout.require_recipe(store, "struck").loops == 1


@pytest.mark.parametrize(
    ("code", "tail", "status"),
    [
        (-9, [], 75),
        (1, ["a task failed"], 75),  # its component ended without a word
        (1, ["Traceback (most recent call last):", "KeyboardInterrupt"], 75),  # Ctrl-C, to it alone
        (1, ["Traceback (most recent call last):", "KeyError: 'a bug'"], 1),
        (1, ["OSError: [Errno 28] No space left on device"], 75),
    ],
)
def test_why_a_pipeline_ended_of_which_no_step_said_why(
    code: int, tail: list[str], status: int
) -> None:
    error = _unsaid(code, tail, Path("pipeline.log"))
    assert error.exit_code == status and "\n" not in str(error)


def test_the_pipelines_own_files_may_be_deleted(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pipelines.run", "metaloop", "--store", str(tmp_path)]
    command += [
        "--run",
        "r",
        "--recipe",
        str(tmp_path / "gone"),
        "--scratch",
        str(tmp_path / "kfp"),
    ]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 75 and "Traceback" not in ended.stdout + ended.stderr
    assert "the same command continues" in ended.stdout


@pytest.fixture
def small_store(world: World) -> Iterator[Callable[[], None]]:
    """The store on a disk of a few MB; what is yielded fills it to the last byte."""
    folder = world.root / "store"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=600m", "tmpfs", str(folder)]
    if os.getuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("nothing may be mounted here")

    def fill() -> None:
        ballast = folder / "ballast"
        with ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(folder).free)

    yield fill
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.slow
def test_a_disk_that_fills_up_is_75_and_the_same_command_continues(
    world: World, small_store: Callable[[], None]
) -> None:
    once = world.root / "once"
    command = began(world, rollout={"do": "sleep", "seconds": 4, "once": str(once)})
    small_store()
    out, said = command.communicate(timeout=120)
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert command.returncode == 75 and len(errors) == 1, out + said
    assert "the disk is full" in errors[0] and "the same command continues" in errors[0]
    assert "Traceback" not in said
    left = [path for path in world.store.root.rglob(".*.tmp") if "lock" not in path.name]
    assert not left
    (world.root / "store/ballast").unlink()
    again = world.submit("--run", "struck", overrides=OVERRIDES)
    assert again.returncode == 0, again.stdout + again.stderr


def test_a_full_disk_before_a_run_is_told_at_once(
    world: World, small_store: Callable[[], None]
) -> None:
    small_store()
    ended = world.submit("--run", "struck", overrides=OVERRIDES)
    assert ended.returncode == 75 and "Traceback" not in ended.stderr, ended
    assert [line for line in ended.stderr.splitlines() if "the disk is full" in line]
    assert not [p for p in Path(world.store.root).rglob(".*.tmp") if "lock" not in p.name]
