"""Rollout replicas as processes: one is killed, the others finish its work."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from pelican.data.tables import read_rows
from pelican.records import Rollout
from pelican.stages import job as module
from pelican.stages.stage import StageSpec
from pelican.storage import open_store
from pelican.storage.manifests import read_manifest
from tests.data.factory import sample, write_pool
from tests.stages.test_rollout import folder, shards
from tests.stages.test_rollout import spec as make_spec

ROOT = Path(__file__).parent.parent.parent

# A replica with the tests' deterministic engine. Its pace: seconds before each sample, or `others`,
# which is until the others have made all but its shard.
REPLICA = """
import sys, time
from pathlib import Path
from pelican.stages import rollout
from pelican.stages.runner import run_stage
from pelican.stages.stage import StageSpec
from tests.stages.test_rollout import Fake

class Slow(Fake):
    def generate(self, samples, sampling, n, seed):
        for group in super().generate(samples, sampling, n, seed):
            if sys.argv[2] == "others":
                while len(list(Path(job.store, job.output, "work").glob("shard-*.json"))) < 9:
                    time.sleep(0.05)
            else:
                time.sleep(float(sys.argv[2]))
            print("sample", flush=True)
            yield group

job = StageSpec.model_validate_json(Path(sys.argv[1]).read_bytes())
rollout.open_engine = lambda *_: Slow()
run_stage(job)
"""


@pytest.fixture
def job(tmp_path: Path) -> StageSpec:
    pool = write_pool(tmp_path / "pool", [sample(i) for i in range(40)], per_shard=20)
    job = make_spec(tmp_path, pool)
    rollout = job.recipe.rollout.model_copy(update={"shard_size": 4})
    return job.model_copy(update={"recipe": job.recipe.model_copy(update={"rollout": rollout})})


def start(job: StageSpec, tmp_path: Path, paces: list[str]) -> list[subprocess.Popen[str]]:
    spec = tmp_path / "spec.json"
    spec.write_text(job.model_dump_json())
    common = {**os.environ, "PYTHONPATH": str(ROOT), "PELICAN_LEASE_S": "2"}
    common |= {"WORLD_SIZE": str(len(paces)), "PELICAN_ATTEMPT": "one"}
    return [
        subprocess.Popen(
            [sys.executable, "-c", REPLICA, str(spec), pace],
            env={**common, "RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank, pace in enumerate(paces)
    ]


def finish(replicas: list[subprocess.Popen[str]]) -> list[int]:
    codes = []
    for replica in replicas:
        replica.communicate(timeout=300)
        codes.append(replica.returncode)
    return codes


def check(job: StageSpec) -> None:
    """Every sample has exactly T rollouts, and the manifest knows of all of them."""
    manifest = read_manifest(open_store(job.store), job.output)
    assert manifest is not None and manifest.counts["rollouts"] == 160
    made = Counter((row.sample_id, row.index) for row in read_rows(shards(job), Rollout))
    assert made == {(f"s{i:05d}", j): 1 for i in range(40) for j in range(4)}
    assert not [path for path in folder(job).iterdir() if path.name.endswith(".tmp")]


def test_a_killed_replicas_shard_is_taken_over(job: StageSpec, tmp_path: Path) -> None:
    replicas = start(job, tmp_path, ["0.02", "0.02", "0.02"])
    victim = replicas[1]
    assert victim.stdout is not None
    assert victim.stdout.readline()  # it is in the middle of a shard
    victim.send_signal(signal.SIGKILL)
    assert finish(replicas) == [0, -signal.SIGKILL, 0]
    check(job)


def test_a_straggler_costs_at_most_one_shard(job: StageSpec, tmp_path: Path) -> None:
    replicas = start(job, tmp_path, ["0", "others"])
    slow = replicas[1]
    output, _ = slow.communicate(timeout=300)
    assert finish([replicas[0]]) == [0] and slow.returncode == 0
    check(job)
    assert output.count("sample") <= 4  # its fair share would have been five shards of four


def test_a_replica_that_comes_when_all_is_done_finds_it_so(job: StageSpec, tmp_path: Path) -> None:
    assert finish(start(job, tmp_path, ["0"])) == [0]
    before = {path: path.stat().st_mtime_ns for path in shards(job)}
    assert finish(start(job, tmp_path, ["0", "0"])) == [0, 0]
    assert {path: path.stat().st_mtime_ns for path in shards(job)} == before
    check(job)


def test_a_replica_that_waits_for_others_does_not_look_stuck(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    told: list[None] = []
    monkeypatch.setattr(module.record, "waited", lambda: told.append(None))
    monkeypatch.setattr(module, "_POLL_S", 0.0)
    done: set[str] = set()
    leases = module.StageJob.in_folder(tmp_path / "stage", world_size=2).leases(["a"], lambda: done)
    assert leases.wait() and told == [None]
    done.add("a")
    assert not leases.wait() and told == [None]
