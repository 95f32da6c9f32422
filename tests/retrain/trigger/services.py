"""Events, stores with a model, and services that run as processes of their own."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import httpx

from pelican.registry.models import Lineage, promote, register
from pelican.retrain.trigger.inbox import ObjectEvent
from pelican.storage.store import FolderStore, ObjectStore
from tests.conftest import ROOT, write_checkpoint
from tests.endpoints import free_port

TOKEN, SECRET = "a-token-of-the-tests", "a-secret-of-the-tests"
MADE = shlex.join([sys.executable, str(Path(__file__).parent / "retrain_stub.py")])


class Clock:
    """Seconds that a test sets."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def event(number: int, tag: str = "", sequencer: str = "", key: str = "") -> ObjectEvent:
    name = key or f"incoming/episode-{number:04d}.parquet"
    return ObjectEvent(
        bucket="robots", key=name, tag=tag or f"tag{number}", size=10, sequencer=sequencer
    )


def notification(*events: ObjectEvent, name: str = "s3:ObjectCreated:Put") -> dict[str, Any]:
    """As MinIO sends it."""
    records = [
        {
            "eventVersion": "2.0",
            "eventName": name,
            "s3": {
                "bucket": {"name": e.bucket},
                "object": {
                    "key": quote_plus(e.key),
                    "size": e.size,
                    "eTag": e.tag,
                    "sequencer": e.sequencer,
                },
            },
        }
        for e in events
    ]
    return {"EventName": name, "Key": "robots/x", "Records": records}


def store_with_model(folder: Path) -> FolderStore:
    """A store whose model `tiny` has a current version."""
    store = FolderStore(folder / "store")
    checkpoint = write_checkpoint(folder / "checkpoint")
    version = register(store, "tiny", checkpoint, Lineage(origin="imported", source="made"))
    promote(store, "tiny", version.version, "test", None)
    return store


def finished_runs(store: FolderStore) -> list[str]:
    """One line for every run that was carried to its end."""
    path = store.root / "made" / "runs.txt"
    return path.read_text().splitlines() if path.exists() else []


@dataclass
class Service:
    """A running service."""

    process: subprocess.Popen[bytes]
    url: str
    log: Path

    def post(self, body: Any, token: str = TOKEN, **headers: str) -> httpx.Response:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"authorization": f"Bearer {token}", **headers}
        return httpx.post(f"{self.url}/v1/events/s3", content=data, headers=headers, timeout=300)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@contextmanager
def service(
    store: ObjectStore, log: Path, options: Any = (), **settings: object
) -> Iterator[Service]:
    """`pelican trigger serve` with the made run behind it; `settings`: fields of its configuration."""
    port = free_port()
    chosen: dict[str, object] = {
        "quiet_s": 0.3,
        "tick_s": 0.05,
        "lease_s": 2,
        "backoff_s": 0.2,
        "rate": 1e6,
    }
    chosen |= {"burst": 1000000, "tokens": TOKEN, "secrets": SECRET, "command": MADE}
    chosen |= {"prefix": "incoming/", **settings}
    environment = {f"PELICAN_TRIGGER_{k.upper()}": str(v) for k, v in chosen.items()}
    environment = {**os.environ, **environment, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "pelican", "trigger", "serve", "--port", str(port)]
    with log.open("ab") as out:
        process = subprocess.Popen(
            [*command, *options, "--store", store.uri], env=environment, stdout=out, stderr=out
        )
    running = Service(process, f"http://127.0.0.1:{port}", log)
    try:
        wait_for(lambda: answers(running), "the service does not answer")
        yield running
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(300)


def answers(running: Service) -> bool:
    assert running.process.poll() is None, running.log.read_text()
    try:
        httpx.get(f"{running.url}/healthz", timeout=60)
        return True
    except httpx.TransportError:
        return False


def wait_for(condition: Any, otherwise: str, limit_s: float = 900.0) -> None:
    """Until `condition` holds; the limit is for a test that would never end."""
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.05)
