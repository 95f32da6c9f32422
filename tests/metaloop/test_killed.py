"""kill -9 of everything in five stages; the same command ends the run as if nothing had been."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import polars as pl
import psutil
import pytest

from pelican.config.env import home
from pelican.storage.manifests import read_manifest
from pelican.storage.store import FolderStore
from tests.metaloop.small import ENVIRONMENT, RUN, command, submit

# Stage, and what lies in its folder once it is in the middle.
MOMENTS = {
    "rollout-rl": "work/shard-*.json",
    "reward-rl": "work/fingerprint",
    "train-rl-rl": "work/**/checkpoint-*",
    "distill-sft": "work/teacher-*.parquet",
    "train-sft-sft": "work/**/checkpoint-*",
}
# What of a stage's files tells of time, or of the order in which processes ended.
NOT_COMPARED = ("curve.parquet", "summary.json")


def kill_when(process: subprocess.Popen[bytes], ready: Callable[[], bool]) -> None:
    """SIGKILL the whole tree of `process` as soon as `ready`."""
    deadline = time.monotonic() + 600
    while not ready():
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    tree = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for victim in tree:
        with suppress(psutil.NoSuchProcess):
            os.kill(victim.pid, signal.SIGKILL)
    process.wait()
    psutil.wait_procs(tree, timeout=30)


@pytest.mark.long
@pytest.mark.skipif(
    not (home() / "models/tiny-teacher/model.safetensors").exists(),
    reason="models/tiny-teacher is not there; `make base-model` trains it",
)
def test_a_run_killed_in_five_stages_ends_as_one_that_was_not(tmp_path: Path) -> None:
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    loop = killed / "runs" / RUN / "loop-1"
    finished: dict[Path, bytes] = {}
    for stage, pattern in MOMENTS.items():
        folder = loop / stage

        def in_the_middle(folder: Path = folder, pattern: str = pattern) -> bool:
            return any(folder.glob(pattern)) and not (folder / "manifest.json").exists()

        kill_when(
            subprocess.Popen(
                command(killed),
                env=ENVIRONMENT,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            ),
            in_the_middle,
        )
        assert not (folder / "manifest.json").exists()
        there = {path: path.read_bytes() for path in killed.rglob("manifest.json")}
        assert finished.items() <= there.items(), "a finished stage was done again"
        finished = there
    last = submit(killed)
    assert last.returncode == 0, last.stdout + last.stderr
    assert all(path.read_bytes() == data for path, data in finished.items())
    ledger = pl.concat(pl.read_parquet(path) for path in loop.rglob("ledger.parquet"))
    assert not ledger.select("sample_id", "loop", "phase").is_duplicated().any()

    assert submit(whole).returncode == 0
    assert outputs(killed) == outputs(whole)


def outputs(root: Path) -> dict[str, str]:
    """Digest of every committed file of every stage."""
    store = FolderStore(root)
    found: dict[str, Any] = {}
    for path in sorted(root.rglob("manifest.json")):
        prefix = path.parent.relative_to(root).as_posix()
        manifest = read_manifest(store, prefix)
        assert manifest is not None
        found |= {
            f"{prefix}/{output.path}": output.sha256
            for output in manifest.outputs
            if not output.path.endswith(NOT_COMPARED)
        }
    return found
