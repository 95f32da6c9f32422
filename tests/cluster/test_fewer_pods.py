"""A training that may go on with fewer pods: a lost worker comes back into the same job."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import polars as pl
import pytest

from tests.cluster.conftest import LONG_S, NAMESPACE, Cluster, kubectl
from tests.cluster.test_launcher import kept_checkpoint, launch, running, train

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


def test_a_lost_worker_restarts_processes_and_not_the_job(cluster: Cluster, buffer: str) -> None:
    job = train(cluster, "elastic", buffer, "rl.max_steps=10", "resources.train_rl.elastic_min=1")
    with ThreadPoolExecutor(1) as threads:
        result = threads.submit(launch, cluster, job)
        running(cluster, "elastic", 2, result)
        kept = kept_checkpoint(cluster, "elastic")
        cluster.wait_for("a checkpoint", kept, LONG_S, meanwhile=result)
        (before,) = cluster.jobs("elastic")
        names = [pod["metadata"]["name"] for pod in cluster.pods("elastic")]
        (name,) = [name for name in names if name.endswith("worker-0")]
        kubectl("-n", NAMESPACE, "delete", "pod", name, "--wait=false")
        done = result.result(timeout=LONG_S)
    (after,) = cluster.jobs("elastic")
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    assert done.attempts == 1
    assert done.manifest.counts["steps"] == 10
    curve = pl.read_parquet(cluster.store.local(f"{job.spec.output}/curve.parquet"))
    assert curve["step"].unique().sort().to_list() == list(range(1, 11))
