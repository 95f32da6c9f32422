"""The trigger's state in a bucket: batches by two replicas, polling, a real server's own events."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest

from pelican.registry.models import Lineage, promote, register
from pelican.retrain.records import find_version
from pelican.retrain.trigger.config import TriggerConfig
from pelican.retrain.trigger.inbox import Inbox
from pelican.retrain.trigger.poll import poll
from pelican.storage.s3 import S3Store
from pelican.storage.s3_client import S3Settings, make_client
from tests.buckets import Bucket
from tests.conftest import ROOT, write_checkpoint
from tests.endpoints import free_port
from tests.minio_server import Server
from tests.retrain.trigger.services import MADE, TOKEN, Service, answers, event, wait_for

ARN = "arn:minio:sqs::pelican:webhook"


def test_two_replicas_make_one_history_of_batches(bucket: Bucket) -> None:
    """Both take the same events and seal whenever they can; nothing is lost or doubled."""
    config = TriggerConfig(max_objects=2, quiet_s=1e6, max_wait_s=1e6)
    ready = threading.Barrier(2)
    failed: list[Exception] = []

    def replica() -> None:
        inbox = Inbox(bucket.store(), config)
        try:
            ready.wait()
            for number in range(6):
                inbox.receive(event(number))
                inbox.seal()
            inbox.seal(at_once=True)
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=replica) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    inbox = Inbox(bucket.store(), config)
    inbox.seal(at_once=True)
    head, _ = inbox.head()
    assert head is not None
    batches = [inbox.batch(number) for number in range(1, head.number + 1)]
    assert Counter(e.id for b in batches for e in b.events) == Counter(
        event(number).id for number in range(6)
    )
    assert not inbox.pending()


def test_polling_finds_what_is_new_and_what_was_overwritten(bucket: Bucket) -> None:
    source, store = bucket.store("lake"), bucket.store()
    inbox = Inbox(store, TriggerConfig(prefix="incoming/"))
    for name in ("incoming/a.parquet", "incoming/b.parquet", "elsewhere/c.parquet"):
        source.write(name, name.encode())
    assert [poll(source, inbox), poll(source, inbox)] == [2, 0]
    source.write("incoming/a.parquet", b"changed")
    assert [poll(source, inbox), poll(source, inbox)] == [1, 0]
    batch = inbox.seal(at_once=True)
    assert batch is not None and batch.data is not None
    version = find_version(store, batch.data)
    tags = source.tags("incoming")
    assert {o.key: o.tag for o in version.objects} == tags, "of each key its newest version"


@pytest.fixture
def port() -> int:
    return free_port()


def test_a_buckets_own_events_start_a_retraining(
    tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MinIO with its webhook set tells `pelican trigger serve`, which retrains once."""
    if shutil.which("minio") is None:
        pytest.skip("there is no `minio` on the PATH: these tests need a real S3 server")
    server = Server(tmp_path / "minio", free_port())
    (tmp_path / "minio").mkdir()
    server.variables = {
        "MINIO_NOTIFY_WEBHOOK_ENABLE_pelican": "on",
        "MINIO_NOTIFY_WEBHOOK_ENDPOINT_pelican": f"http://127.0.0.1:{port}/v1/events/s3",
        "MINIO_NOTIFY_WEBHOOK_AUTH_TOKEN_pelican": f"Bearer {TOKEN}",
        "MINIO_NOTIFY_WEBHOOK_QUEUE_DIR_pelican": str(tmp_path / "queue"),
    }
    for name, value in {**server.environment(), "PELICAN_CACHE": str(tmp_path / "c")}.items():
        monkeypatch.setenv(name, value)
    server.start()
    running = None
    try:
        client = make_client(S3Settings.from_environment())
        client.make_bucket("robots")
        store = S3Store("s3://robots/store", cache=tmp_path / "mine")
        checkpoint = write_checkpoint(tmp_path / "checkpoint")
        version = register(store, "tiny", checkpoint, Lineage(origin="imported", source="made"))
        promote(store, "tiny", version.version, "test", None)
        running = serve(port, store, tmp_path)
        wait_for(lambda: answers(running), "the service does not answer")
        notify(client)
        lake = S3Store("s3://robots", cache=tmp_path / "mine")
        for number in range(3):
            lake.write(f"incoming/episode {number}.parquet", b"x")
        lake.write("incoming/notes.txt", b"x")
        wait_for(lambda: list(store.keys("made")), "no run was made")
        wait_for(lambda: finished(store) == 3, "not every object was in a batch")
    finally:
        if running is not None:
            running.kill()
        server.stop()


def serve(port: int, store: S3Store, folder: Path) -> Service:
    chosen = {"quiet_s": 1, "tick_s": 0.1, "tokens": TOKEN, "command": MADE, "launcher": "local"}
    chosen |= {"source": "s3://robots", "bucket": "robots", "prefix": "incoming/"}
    environment = {f"PELICAN_TRIGGER_{k.upper()}": str(v) for k, v in chosen.items()}
    environment = {**os.environ, **environment, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "pelican", "trigger", "serve", "--port", str(port)]
    log = folder / "service.log"
    with log.open("ab") as out:
        process = subprocess.Popen(
            [*command, "--store", store.uri], env=environment, stdout=out, stderr=out
        )
    return Service(process, f"http://127.0.0.1:{port}", log)


def finished(store: S3Store) -> int:
    """Objects of the batches whose run was carried to its end."""
    runs = [store.read(key).decode() for key in store.keys("made")]
    names = {line.split()[1] for text in runs for line in text.splitlines()}
    return sum(len(find_version(store, name).objects) for name in names)


def notify(client: object) -> None:
    from minio import Minio
    from minio.notificationconfig import NotificationConfig, QueueConfig, SuffixFilterRule

    assert isinstance(client, Minio)
    suffix = SuffixFilterRule(".parquet")
    queue = QueueConfig(events=["s3:ObjectCreated:*"], suffix_filter_rule=suffix, queue=ARN)
    client.set_bucket_notification("robots", NotificationConfig(queue_config_list=[queue]))
