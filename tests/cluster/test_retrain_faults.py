"""What may happen to the deployed trigger: its pods are killed, its store is away for a minute.

The deliveries are of what the model masters, so that a run is its diagnosis alone.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from pelican.retrain.records import read_verdict
from pelican.retrain.trigger.worker import Status
from pelican.runs.layout import list_runs
from pelican.storage.s3 import S3Store
from tests.cluster import deliveries
from tests.cluster.conftest import LONG_S, NAMESPACE, Cluster, kubectl
from tests.cluster.deployed import Deployed, deployed
from tests.cluster.proxy import Proxy
from tests.cluster.test_retrain import DIAGNOSIS, settings, stages

pytestmark = [pytest.mark.cluster, pytest.mark.slow]
AWAY_S = float(os.environ.get("PELICAN_TEST_AWAY_S", "60"))


@dataclass
class Proxied:
    """The trigger, which reaches its store through a proxy on the address of this machine."""

    trigger: Deployed
    proxy: Proxy


@pytest.fixture(scope="module")
def proxied(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxied]:
    endpoint = urlsplit(os.environ["S3_ENDPOINT_URL"])
    target = (str(endpoint.hostname), endpoint.port or 443)
    with socket.create_connection(target) as probe:
        here = probe.getsockname()[0]
    proxy = Proxy(here, target)
    url = f"{endpoint.scheme}://{here}:{proxy.address[1]}"
    own = replace(cluster, store=S3Store(f"{cluster.store.uri}/faults"))
    chosen = settings(own, tmp_path_factory.mktemp("old"))
    with deployed(own, tmp_path_factory.mktemp("manifests"), chosen, url) as running:
        yield Proxied(running, proxy)


def kill(*pods: str) -> None:
    kubectl("-n", NAMESPACE, "delete", "pod", *pods, "--grace-period=0", "--force")


def owner(trigger: Deployed, batch: int) -> str:
    """The pod that works on a batch."""
    text = trigger.cluster.store.read(f"trigger/status/{batch:06d}.json")
    name = Status.model_validate_json(text).owner
    return name.rsplit("-", 2)[0]


def test_pods_killed_before_and_after_the_submission_make_one_run(
    proxied: Proxied, tmp_path: Path
) -> None:
    trigger, rows = proxied.trigger, deliveries.mastered()
    trigger.deliver(*deliveries.files(tmp_path, "first", rows[::2]))
    trigger.cluster.wait_for("the events", lambda: trigger.told()["received"])
    kill(*(pod["metadata"]["name"] for pod in trigger.pods()))
    assert trigger.told()["started"] == 0
    trigger.cluster.wait_for("the start", lambda: trigger.told()["started"], LONG_S)
    (run,) = {entry["run"] for entry in trigger.audit() if entry["what"] == "started"}
    before = trigger.cluster.wait_for("a job", lambda: trigger.cluster.jobs(run), LONG_S)
    kill(owner(trigger, 1))
    end = trigger.ended(1)
    told = trigger.told()
    assert (end["what"], end["outcome"], end["run"]) == ("done", "no weakness", run)
    assert (told["sealed"], told["started"], told["taken over"]) == (1, 2, 1)
    assert [s.run for s in list_runs(trigger.cluster.store)] == [run]
    assert stages(trigger, run) == DIAGNOSIS
    after = {job["metadata"]["name"]: job["metadata"]["uid"] for job in trigger.cluster.jobs(run)}
    for job in before:
        assert after[job["metadata"]["name"]] == job["metadata"]["uid"], "it was adopted"


def test_a_store_away_for_a_minute_loses_no_event(proxied: Proxied, tmp_path: Path) -> None:
    trigger, rows = proxied.trigger, deliveries.mastered()
    before = trigger.told()
    paths = deliveries.files(tmp_path, "second", rows[1::2])
    away = threading.Thread(target=proxied.proxy.down_for, args=(AWAY_S,))
    away.start()
    time.sleep(1)
    trigger.deliver(*paths)  # the bucket is there, the service can keep nothing
    away.join()
    assert trigger.told() == before
    end = trigger.ended(before["done"] + before["failed"] + 1)
    assert (end["what"], end["outcome"]) == ("done", "no weakness")
    now = trigger.told() - before
    assert (now["sealed"], now["started"], now["done"]) == (1, 1, 1)
    assert read_verdict(trigger.cluster.store, end["run"]) is not None
