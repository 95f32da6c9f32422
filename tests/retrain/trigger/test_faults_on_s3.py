"""The list of faults, on `pelican trigger serve` as it runs and a MinIO that goes away and comes back.

One run for every batch, every object in exactly one. PELICAN_TEST_AWAY_S says for how long things
are away (default 3; 60 for the minute that issue 8 asks for).
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from pelican.registry.models import Lineage, promote, register
from pelican.retrain.records import Verdict, find_version, write_verdict
from pelican.retrain.trigger.inbox import read_audit
from pelican.runs.layout import run_prefix
from pelican.storage.manifests import now
from pelican.storage.s3 import S3Store
from pelican.storage.s3_client import S3Settings, make_client
from tests.conftest import World, write_checkpoint
from tests.endpoints import free_port
from tests.launch.test_kfp import Backend, serving_backend
from tests.minio_server import Server
from tests.retrain.trigger.services import event, notification, service, wait_for

AWAY_S = float(os.environ.get("PELICAN_TEST_AWAY_S", "3"))
pytestmark = pytest.mark.slow


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    if shutil.which("minio") is None:
        pytest.skip("there is no `minio` on the PATH: these tests need a real S3 server")
    found = Server(tmp_path / "minio", free_port())
    found.folder.mkdir()
    for name, value in {**found.environment(), "PELICAN_CACHE": str(tmp_path / "cache")}.items():
        monkeypatch.setenv(name, value)
    found.start()
    make_client(S3Settings.from_environment()).make_bucket("robots")
    yield found
    found.stop()


@pytest.fixture
def store(server: Server, tmp_path: Path) -> S3Store:
    """A store in the bucket whose model `tiny` has a current version."""
    made = S3Store("s3://robots/store", cache=tmp_path / "mine")
    checkpoint = write_checkpoint(tmp_path / "checkpoint")
    version = register(made, "tiny", checkpoint, Lineage(origin="imported", source="made"))
    promote(made, "tiny", version.version, "test", None)
    return made


def runs(store: S3Store) -> list[list[str]]:
    """The keys of every run that was carried to its end."""
    lines = [line for key in store.keys("made") for line in store.read(key).decode().splitlines()]
    names = [line.split()[1] for line in lines]
    return [sorted(o.key for o in find_version(store, name).objects) for name in names]


def whats(store: S3Store) -> Counter[str]:
    return Counter(entry["what"] for entry in read_audit(store))


def test_every_object_is_in_one_run_whatever_is_killed_or_away(
    server: Server, store: S3Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = tmp_path / "backend-away"
    monkeypatch.setenv("MADE_AWAY", str(away))
    monkeypatch.setenv("PELICAN_STORE", store.uri)
    told = [notification(event(n, sequencer=f"{n:02X}")) for n in (2, 0, 1)]
    newer = notification(event(0, tag="newer", sequencer="F0"))
    older = notification(event(0, tag="oldest", sequencer="00"))

    # Killed between event and submission; what came is out of order, and one version is outdated.
    with service(store, tmp_path / "a.log", quiet_s=1e6, max_wait_s=1e6) as killed:
        for body in (*told, newer, older):
            assert killed.post(body).status_code == 202
        killed.kill()
    assert runs(store) == []

    with ExitStack() as stack:
        two = [
            stack.enter_context(service(store, tmp_path / f"{name}.log", quiet_s=2))
            for name in ("b", "c")
        ]

        def post(number: int) -> dict[str, int]:
            answer = two[number % 2].post(told[number % 3])
            assert answer.status_code == 202, answer.text
            counted: dict[str, int] = answer.json()
            return counted

        # The same events a hundred times, to two replicas.
        with ThreadPoolExecutor(8) as pool:
            counted = sum((Counter(found) for found in pool.map(post, range(100))), Counter[str]())
        assert set(counted) <= {"duplicate", "superseded"} and counted.total() == 100
        wait_for(lambda: len(runs(store)) == 1, "the events of the killed service were lost")

        # The store is away: nothing is taken, nothing is lost.
        server.stop()
        refused = two[0].post(notification(event(5)))
        assert refused.status_code == 503 and "Traceback" not in refused.text
        assert httpx.get(f"{two[1].url}/healthz", timeout=60).status_code == 200
        assert httpx.get(f"{two[1].url}/readyz", timeout=300).status_code == 503
        time.sleep(AWAY_S)
        server.start()
        wait_for(
            lambda: two[0].post(notification(event(5))).status_code == 202, "no event is taken"
        )
        wait_for(lambda: len(runs(store)) == 2, "the batch after the outage was lost")

        # The backend of the runs is away.
        away.touch()
        assert two[1].post(notification(event(6))).json() == {"new": 1}
        wait_for(lambda: "the made backend is away" in str(read_audit(store)), "no start failed")
        time.sleep(AWAY_S)
        away.unlink()
        wait_for(lambda: whats(store)["done"] == 3, "the batch of a backend that was away was lost")
        time.sleep(1)  # for what should not come

    keys = [event(n).key for n in (0, 1, 2, 5, 6)]
    assert runs(store) == [keys[:3], [keys[3]], [keys[4]]]
    told_of = whats(store)
    assert (told_of["sealed"], told_of["done"], told_of["failed"]) == (3, 3, 0)
    logs = [(tmp_path / f"{name}.log").read_text() for name in "abc"]
    assert not any("Traceback" in log for log in logs)


def test_kubeflow_away_before_and_after_the_submission(
    store: S3Store, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real `pelican retrain` submits and follows; the API's server is made, and is away twice."""
    kubeflow = Backend()
    port = free_port()
    monkeypatch.setenv("KFP_HOST", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("PELICAN_STORE", store.uri)
    for name in ("KFP_UI", "KFP_NAMESPACE", "KFP_TOKEN", "KFP_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    chosen = {
        "command": "",
        "launcher": "kubeflow",
        "overrides": " ".join([*world.overrides, "loops=1"]),
    }
    with service(store, tmp_path / "a.log", **chosen) as running:
        running.post(notification(event(1)))
        wait_for(lambda: "does not answer" in str(read_audit(store)), "no start failed")
        time.sleep(AWAY_S)
        assert not kubeflow.runs
        with serving_backend(kubeflow, port=port):
            wait_for(lambda: kubeflow.runs, "nothing was submitted")
        time.sleep(AWAY_S)  # away again, while the run goes on
        assert not whats(store)["done"]
        with serving_backend(kubeflow, port=port):
            (run,) = kubeflow.runs.values()
            verdict = Verdict(
                outcome="promoted", run=run["display_name"], data="x", parent="tiny:1",
                version="tiny:2", reasons=["made"], at=now(),
            )  # fmt: skip
            write_verdict(store, verdict)
            summary = f"{run_prefix(verdict.run)}/summary.json"
            store.write(summary, json.dumps({"state": "complete"}).encode())
            kubeflow.states.append("SUCCEEDED")
            wait_for(lambda: "promoted" in str(read_audit(store)), "the run's end was not seen")
    assert len(kubeflow.runs) == 1
