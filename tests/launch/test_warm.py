"""Warm starts, with a real warm process that has imported little."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pelican.base.process import is_running, unique_pid
from pelican.config import env
from pelican.launch import warm


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.delenv(env.WARM, raising=False)
    with warm.warm_process(("pelican.cli.main",)):
        path = Path(os.environ[env.WARM])
        deadline = time.monotonic() + 30
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        yield str(path)


def test_a_machine_with_a_gpu_forks_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not warm.has_gpu(tmp_path)
    for name in ("nvidiactl", "nvidia0"):
        assert not warm.has_gpu(tmp_path)
        (tmp_path / name).touch()
    assert warm.has_gpu(tmp_path)
    monkeypatch.delenv(env.WARM, raising=False)
    monkeypatch.setattr(warm, "has_gpu", lambda: True)
    with warm.warm_process(("pelican.cli.main",)):
        assert not env.is_set(env.WARM)


@pytest.fixture
def lock(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
    yield descriptor
    os.close(descriptor)


def finish(forked: warm.Forked) -> tuple[int, str]:
    printed = forked.stdout.read().decode()
    return forked.wait(30), printed


def test_a_forked_command_prints_and_ends_as_a_started_one(server: str, lock: int) -> None:
    forked = warm.start(["recipe", "show", "tiny", "--set", "loops=2"], os.environ, lock)
    assert forked is not None
    code, printed = finish(forked)
    assert code == 0
    assert "loops" in printed and "tiny-base" in printed


def test_bad_input_keeps_its_exit_status(server: str, lock: int, tmp_path: Path) -> None:
    arguments = ["stage", "rollout", "--spec", str(tmp_path / "none.json")]
    forked = warm.Forked(server, arguments, os.environ, lock)
    code, printed = finish(forked)
    assert code == 2
    assert "none.json cannot be read" in printed


def test_the_environment_is_the_requests_own(server: str, lock: int, tmp_path: Path) -> None:
    environment = {"PATH": os.environ["PATH"], "PELICAN_STORE": str(tmp_path / "elsewhere")}
    code, printed = finish(warm.Forked(server, ["runs"], environment, lock))
    assert code == 0
    assert "elsewhere" in printed


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_signal_is_told(server: str, lock: int, tmp_path: Path, number: signal.Signals) -> None:
    forked = _sleeper(server, lock, tmp_path)
    os.killpg(forked.pid, number)
    assert forked.wait(10) in (-number, 128 + number)


def test_without_the_warm_process_its_stages_end(server: str, lock: int, tmp_path: Path) -> None:
    forked = _sleeper(server, lock, tmp_path)
    stage = unique_pid(forked.pid)
    parent = int(Path(f"/proc/{forked.pid}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(parent, signal.SIGKILL)
    assert forked.wait(10) == -signal.SIGKILL
    assert _ended(stage)
    assert warm.start(["runs"], os.environ, lock) is None


def test_without_the_launcher_its_stage_ends(server: str, lock: int, tmp_path: Path) -> None:
    spec = _fifo(tmp_path)
    code = (
        "import os, sys, time\nfrom pelican.launch.warm import Forked\n"
        f"print(Forked({server!r}, ['stage', 'rollout', '--spec', {str(spec)!r}], os.environ, 0).pid,"
        " flush=True)\ntime.sleep(60)"
    )
    launcher = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert launcher.stdout is not None
    stage = unique_pid(int(launcher.stdout.readline()))
    assert is_running(stage)
    launcher.kill()
    launcher.wait()
    launcher.stdout.close()
    assert _ended(stage)


def test_nobody_answers_and_the_stage_starts_cold(
    lock: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in ("", "off", str(tmp_path / "nobody")):
        monkeypatch.setenv(env.WARM, path)
        assert warm.start(["runs"], os.environ, lock) is None


def _fifo(folder: Path) -> Path:
    """A specification that never comes: whoever reads it waits."""
    os.mkfifo(folder / "spec.json")
    return folder / "spec.json"


def _sleeper(server: str, lock: int, folder: Path) -> warm.Forked:
    arguments = ["stage", "rollout", "--spec", str(_fifo(folder))]
    forked = warm.Forked(server, arguments, os.environ, lock)
    time.sleep(0.5)
    assert forked.poll() is None
    return forked


def _ended(process: str) -> bool:
    deadline = time.monotonic() + 10
    while is_running(process) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not is_running(process)
