"""An elastic training as its pods run it: a pod that joins later, and that is killed then."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import polars as pl
import psutil  # type: ignore[import-untyped]
import pytest

from pelican.config.env import home
from pelican.config.presets import find_recipe
from pelican.launch.podspec import MEETING
from pelican.records import Phase
from pelican.stages.stage import StageSpec
from pelican.storage.manifests import read_manifest
from pelican.storage.store import FolderStore
from tests.endpoints import free_port

ROOT = Path(__file__).parent.parent.parent
PROGRAM = (
    "import pathlib, sys, pelican.base.pod as pod; pod.MESSAGE = pathlib.Path(sys.argv[1]);"
    "sys.exit(pod.main(sys.argv[2:]))"
)
STEPS = 40
OUTPUT = "runs/elastic/loop-1/train-rl-rl"


def spec_in(folder: Path) -> Path:
    """A short training on 24 samples; its specification."""
    recipe = find_recipe(
        "tiny",
        [
            f"rl.max_steps={STEPS} rl.min_steps=1 rl.save_steps=1 rl.prompts_per_step=4"
            " rl.group_size=4 rl.threads=1"
        ],
    )
    store = FolderStore(folder / "store")
    ids = pl.read_parquet(home() / "samples/train/*.parquet", columns=["id"])["id"].sort()[:24]
    (folder / "store/buffer").mkdir(parents=True)
    pl.DataFrame({"sample_id": ids}).write_parquet(folder / "store/buffer/buffer.parquet")
    spec = StageSpec(
        stage="train-rl",
        store=store.uri,
        run="elastic",
        loop=1,
        phase=Phase.RL,
        output=OUTPUT,
        inputs={
            "pool": str(home() / recipe.data.train),
            "policy": str(home() / recipe.models.policy),
            "buffer": str(folder / "store/buffer"),
        },
        recipe=recipe,
    )
    path = folder / "spec.json"
    path.write_text(spec.model_dump_json())
    return path


def pod(folder: Path, name: str, port: int, spec: Path) -> subprocess.Popen[bytes]:
    """What a pod starts, with what the operator gives it for `elasticPolicy`."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        **MEETING,
        "PET_NNODES": "1:2",
        "PET_MAX_RESTARTS": "10",
        "PET_RDZV_BACKEND": "c10d",
        "PET_RDZV_ENDPOINT": f"127.0.0.1:{port}",
        "PET_RDZV_ID": "elastic",
        "PET_RDZV_CONF": "join_timeout=600,last_call_timeout=2,read_timeout=60",
    }
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(folder / f"{name}.end"), "train-rl", str(spec), "1"],
        env=environment,
        stdout=(folder / f"{name}.log").open("wb"),
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def kill(process: subprocess.Popen[bytes]) -> None:
    tree = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for victim in tree:
        victim.send_signal(signal.SIGKILL)
    process.wait()


@pytest.mark.long
def test_a_training_goes_on_with_more_pods_and_with_fewer(tmp_path: Path) -> None:
    port = free_port()
    spec = spec_in(tmp_path)
    first = pod(tmp_path, "first", port, spec)
    second: subprocess.Popen[bytes] | None = None

    def wait_for(condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 1800
        while not condition():
            log = (tmp_path / "first.log").read_text()
            assert first.poll() is None, log
            assert time.monotonic() < deadline, log
            time.sleep(0.05)

    def meets() -> bool:
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", port)) == 0

    def has_checkpoint() -> bool:
        """One that two processes wrote."""
        return any((tmp_path / "store" / OUTPUT).glob("work/trainer/checkpoint-*/rng_state_1.pth"))

    def has_begun() -> bool:
        return any((tmp_path / "store" / OUTPUT).glob("work/trainer/checkpoint-*"))

    try:
        wait_for(meets)
        wait_for(has_begun)  # alone: the second joins a training
        second = pod(tmp_path, "second", port, spec)
        wait_for(has_checkpoint)
        kill(second)
        code = first.wait(timeout=1800)
    finally:
        for process in (first, second):
            if process is not None and process.poll() is None:
                kill(process)
    log = (tmp_path / "first.log").read_text()
    assert code == 0, log
    assert "another process of the job is gone" in log
    store = FolderStore(tmp_path / "store")
    manifest = read_manifest(store, OUTPUT)
    assert manifest is not None
    assert manifest.counts["steps"] == STEPS
    curve = pl.read_parquet(tmp_path / "store" / OUTPUT / "curve.parquet")
    assert curve["step"].unique().sort().to_list() == list(range(1, STEPS + 1))
