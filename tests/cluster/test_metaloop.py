"""The metaloop with every stage as a PyTorchJob and everything in S3."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.cluster.conftest import ROOT, Cluster

pytestmark = [pytest.mark.cluster, pytest.mark.slow]
SETTINGS = (
    "loops=1 data.evaluation=samples/dev data.samples_per_loop=64 rl.max_steps=3 rl.min_steps=1"
    " rl.processes=2 sft.processes=2 rollout.workers=1 rollout.shard_size=32 sft.max_steps=4"
    " distill.max_rows=200 distill.neighbours=4 resources.every.cpu=200m resources.every.memory=3Gi"
    " resources.train_rl.replicas=2 resources.train_sft.replicas=2"
)
STAGES = {
    "loop-0-eval-base",
    *(f"loop-1-{s}-rl" for s in ("rollout", "reward", "filter", "train-rl", "eval")),
    *(f"loop-1-{s}-sft" for s in ("rollout", "reward", "filter", "distill", "train-sft", "eval")),
}


def pelican(*arguments: str, timeout: float) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pelican", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=timeout,
        cwd=ROOT,
    )


def test_the_metaloop_runs_as_jobs_with_all_data_in_s3(cluster: Cluster) -> None:
    run = "metaloop"
    done = pelican("submit", "--run", run, "--set", SETTINGS, timeout=3000)
    assert done.returncode == 0, done.stdout + done.stderr
    print(done.stdout)
    shown = json.loads(pelican("show", run, "--json", timeout=300).stdout)
    assert shown["state"] == "complete"
    assert [score["phase"] for score in shown["scores"]] == ["base", "rl", "sft"]
    assert {job["metadata"]["labels"]["pelican.dev/stage"] for job in cluster.jobs(run)} == STAGES
    logs = {key.split("/")[-1] for key in cluster.store.keys(f"runs/{run}/logs")}
    assert {f"{stage}.log" for stage in STAGES} <= logs
    secret = os.environ["AWS_SECRET_ACCESS_KEY"]
    for key in cluster.store.keys(f"runs/{run}"):
        if key.endswith((".log", ".json", ".html")):
            assert secret.encode() not in cluster.store.read(key), key
    store = ROOT / ".pelican" / "store" / "runs" / run
    assert not store.exists()
    # Again: all stages are recognised, none is run.
    again = pelican("submit", "--run", run, "--set", SETTINGS, timeout=600)
    assert again.returncode == 0, again.stdout + again.stderr
    assert again.stdout.count("done before") == len(STAGES)
