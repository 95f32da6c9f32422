"""New episodes in a bucket of MinIO: the deployed trigger retrains once, its stages are PyTorchJobs.

The service, its account and its settings are those of manifests/trigger; nothing but the upload
starts a run. Without a backend of Kubeflow the graph runs in the service's pod.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pelican.registry.models import read_aliases, require_version
from pelican.retrain.records import Verdict, read_verdict
from pelican.retrain.steps import read_intake
from pelican.runs.layout import list_runs
from tests.cluster import deliveries
from tests.cluster.conftest import NAMESPACE, Cluster, kubectl
from tests.cluster.deployed import APP, Deployed, deployed
from tests.cluster.test_metaloop import pelican

pytestmark = [pytest.mark.cluster, pytest.mark.slow]
# Small, but for the gate: its rules are the recipe's.
SMALL = (
    "loops=1 rl.enabled=false data.samples_per_loop=80 rollout.workers=1 rollout.samples=4"
    " rollout.weak_samples=2 distill.max_rows=300 distill.neighbours=6 distill.tries=1"
    " sft.batch_size=24 sft.processes=2 retrain.held_share=0.3 retrain.replay=0.5 retrain.min_weak=10"
    " resources.every.cpu=200m resources.every.memory=3Gi"
)
DIAGNOSIS = {"loop-0-rollout-base", "loop-0-reward-base", "loop-0-filter-base"}
LOOP = {f"loop-1-{s}-sft" for s in ("rollout", "reward", "filter", "distill", "train-sft", "eval")}


def settings(cluster: Cluster, folder: Path) -> dict[str, str]:
    """A model to go on from, pools where pods find them, and how the trigger is told of both."""
    store = ("--store", cluster.store.uri)
    added = pelican("models", "add", "tiny", "models/tiny-base", *store, timeout=300)
    assert "current" in added.stdout, added.stderr
    pools = f"data.train={deliveries.old(folder, 300)} data.evaluation=samples/dev"
    published = pelican("store", "publish", "tiny", "--set", pools, *store, timeout=300)
    assert published.returncode == 0, published.stderr
    return {
        "PELICAN_STORE": cluster.store.uri,
        "PELICAN_TRIGGER_OVERRIDES": f"{published.stdout.strip()} {SMALL}",
        "PELICAN_TRIGGER_QUIET_S": "8",
        "PELICAN_TRIGGER_LEASE_S": "20",
    }


@pytest.fixture(scope="module")
def trigger(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    chosen = settings(cluster, tmp_path_factory.mktemp("old"))
    with deployed(cluster, tmp_path_factory.mktemp("manifests"), chosen) as running:
        yield running


def delivered(trigger: Deployed, *paths: Path) -> Verdict:
    """Upload, wait, and see that it was one batch and one run, started once."""
    before, known = trigger.told(), {s.run for s in list_runs(trigger.cluster.store)}
    trigger.deliver(*paths)
    end = trigger.ended(before["done"] + before["failed"] + 1)
    assert end["what"] == "done", end
    now = trigger.told() - before
    assert (now["sealed"], now["started"], now["done"]) == (1, 1, 1)
    assert {s.run for s in list_runs(trigger.cluster.store)} - known == {end["run"]}
    verdict = read_verdict(trigger.cluster.store, end["run"])
    assert verdict is not None
    print(f"{end['run']}: {verdict.outcome}", *verdict.reasons, sep="\n  ")
    return verdict


def stages(trigger: Deployed, run: str) -> set[str]:
    """Of the run's jobs."""
    return {
        job["metadata"]["labels"]["pelican.dev/stage"]
        for job in trigger.cluster.jobs(run)
        if job["status"]["conditions"][-1]["type"] == "Succeeded"
    }


def test_files_that_hold_nothing_usable_are_told_and_start_no_job(
    trigger: Deployed, tmp_path: Path
) -> None:
    before = trigger.told()
    (tmp_path / "noise.parquet").write_bytes(os.urandom(5000))
    (tmp_path / "empty.parquet").write_bytes(b"")
    trigger.deliver(tmp_path / "noise.parquet", tmp_path / "empty.parquet")
    end = trigger.ended(before["done"] + before["failed"] + 1)
    assert end["what"] == "failed"
    assert "holds no usable sample" in end["outcome"] and "noise.parquet" in end["outcome"]
    assert trigger.cluster.jobs(end["run"]) == []
    assert trigger.told()["started"] - before["started"] == 1
    assert read_aliases(trigger.cluster.store, "tiny").current == 1


def test_what_the_model_masters_stops_at_the_diagnosis_and_broken_files_are_reported(
    trigger: Deployed, tmp_path: Path
) -> None:
    rows = deliveries.mastered()
    good = deliveries.files(tmp_path, "mastered", rows[3:])
    # One file that breaks off, and one whose rows are each wrong in a way of its own.
    (cut,) = deliveries.files(tmp_path, "cut", rows[:1], 1)
    cut.write_bytes(cut.read_bytes()[:-300])
    image, _, repeated = rows[1:3] + rows[3:4]
    wrong = [image.model_copy(update={"images": (b"no image",)}), repeated]
    (bad,) = deliveries.files(tmp_path, "zz-wrong", wrong, 1)
    verdict = delivered(trigger, *good, cut, bad)
    assert verdict.outcome == "no weakness"
    assert stages(trigger, verdict.run) == DIAGNOSIS
    facts = read_intake(trigger.cluster.store, verdict.run)
    assert [fault.key for fault in facts.faults] == ["incoming/cut-0.parquet"]
    assert facts.quarantined == {"image_unreadable": 1, "duplicate_id": 1}
    assert facts.samples + facts.held_samples == len(rows) - 3
    aliases = read_aliases(trigger.cluster.store, "tiny")
    assert (aliases.current, aliases.candidate) == (1, None)


def test_wrong_labels_are_refused_by_the_gate(trigger: Deployed, tmp_path: Path) -> None:
    wrong = deliveries.poisoned(deliveries.hard(300))
    verdict = delivered(trigger, *deliveries.files(tmp_path, "poisoned", wrong))
    assert verdict.outcome == "refused"
    assert any(reason.startswith("labels: ") for reason in verdict.reasons)
    assert stages(trigger, verdict.run) == DIAGNOSIS | LOOP | {"loop-0-eval-base"}
    aliases = read_aliases(trigger.cluster.store, "tiny")
    assert aliases.current == 1
    assert verdict.version == f"tiny:{aliases.candidate}"


def test_what_is_better_becomes_current_with_its_lineage(trigger: Deployed, tmp_path: Path) -> None:
    paths = deliveries.files(tmp_path, "new", deliveries.hard(300))
    verdict = delivered(trigger, *paths)
    assert verdict.outcome == "promoted", verdict.reasons
    store = trigger.cluster.store
    assert stages(trigger, verdict.run) == DIAGNOSIS | LOOP | {"loop-0-eval-base"}
    aliases = read_aliases(store, "tiny")
    assert f"tiny:{aliases.current}" == verdict.version
    assert aliases.previous == 1
    version = require_version(store, "tiny", aliases.current or 0)
    lineage = version.lineage
    assert (lineage.parent, lineage.run) == ("tiny:1", verdict.run)
    (use,) = lineage.data
    assert use.version == verdict.data and use.samples + use.held_samples == 300
    assert lineage.code["commit"] not in ("", "unknown")
    assert lineage.recipe and lineage.report and all(store.exists(key) for key in lineage.ledgers)
    assert store.exists(f"{version.checkpoint}/model.safetensors")
    # The same files again are the same object versions: MinIO tells of them, nothing is started.
    before = trigger.told()
    trigger.deliver(*paths)
    known = 'pelican_trigger_events_total{result="duplicate"} '
    trigger.cluster.wait_for("the repeated events", lambda: counted(trigger, known) >= len(paths))
    assert trigger.told() == before


def counted(trigger: Deployed, name: str) -> float:
    """A counter of the service's metrics, over its replicas."""
    service = "/api/v1/namespaces/{}/pods/{}:8081/proxy/metrics"
    texts = [
        kubectl("get", "--raw", service.format(NAMESPACE, pod["metadata"]["name"]))
        for pod in trigger.pods()
    ]
    lines = [line for text in texts for line in text.splitlines() if line.startswith(name)]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


def test_the_service_may_start_jobs_and_no_more(trigger: Deployed) -> None:
    account = f"--as=system:serviceaccount:{NAMESPACE}:pelican-trigger"

    def may(verb: str, resource: str) -> bool:
        found = kubectl("-n", NAMESPACE, "auth", "can-i", verb, resource, account, check=False)
        return found.strip() == "yes"

    assert may("create", "pytorchjobs.kubeflow.org") and may("list", "pods")
    for verb, resource in (("get", "secrets"), ("create", "pods"), ("list", "configmaps")):
        assert not may(verb, resource)
    logs = kubectl("-n", NAMESPACE, "logs", "-l", APP, "--tail=-1")
    assert os.environ["AWS_SECRET_ACCESS_KEY"] not in logs
