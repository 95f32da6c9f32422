"""What the trigger remembers stays small: the watermark, and the trail of decisions."""

from __future__ import annotations

import json
import os
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from pelican.retrain.trigger.config import TriggerConfig
from pelican.retrain.trigger.inbox import AUDIT, Inbox, read_audit, record, rotate
from pelican.retrain.trigger.poll import WATERMARK, keep_polling, poll
from pelican.retrain.trigger.worker import EVERY_S, CommandSubmitter, is_due
from pelican.storage.store import FolderStore, ObjectStore
from tests.buckets import Bucket
from tests.retrain.trigger.services import store_with_model

DAY = 86400.0


class Listed(FolderStore):
    """A folder that says of itself what S3 does: tags and times come with a listing."""

    remote = True


def drop(source: FolderStore, name: str, at: float, data: bytes = b"1") -> None:
    source.write(f"incoming/{name}", data)
    os.utime(source.root / "incoming" / name, (at, at))


def kept(store: FolderStore) -> list[str]:
    tags = json.loads(store.read(WATERMARK))["tags"]
    return sorted(key.removeprefix("incoming/") for key in tags)


def test_the_watermark_forgets_what_is_gone(tmp_path: Path) -> None:
    source, store = FolderStore(tmp_path / "bucket"), FolderStore(tmp_path / "store")
    inbox = Inbox(store, TriggerConfig(prefix="incoming/"))
    for name in ("a.parquet", "b.parquet"):
        drop(source, name, 0.0)  # a file may be as old as it likes
    assert (poll(source, inbox), kept(store)) == (2, ["a.parquet", "b.parquet"])
    source.delete("incoming/a.parquet")
    assert (poll(source, inbox), kept(store)) == (0, ["b.parquet"])


def test_old_objects_are_told_by_their_time_alone(tmp_path: Path) -> None:
    source, store = Listed(tmp_path / "bucket"), FolderStore(tmp_path / "store")
    inbox = Inbox(store, TriggerConfig(prefix="incoming/", retention_s=10 * DAY))
    for day in range(30):
        drop(source, f"{day:02d}.parquet", day * DAY)
        assert poll(source, inbox) == 1
        assert len(kept(store)) <= 10
    assert len(inbox.pending()) == 30
    assert poll(source, inbox) == 0
    drop(source, "00.parquet", 30 * DAY, b"written again")
    drop(source, "late.parquet", 25 * DAY)  # S3 dates a large upload by its beginning
    assert (poll(source, inbox), poll(source, inbox)) == (2, 0)


def test_a_watermark_of_an_older_version_is_read(tmp_path: Path) -> None:
    source, store = FolderStore(tmp_path / "bucket"), FolderStore(tmp_path / "store")
    inbox = Inbox(store, TriggerConfig(prefix="incoming/"))
    drop(source, "a.parquet", 0.0)
    store.write(WATERMARK, json.dumps(source.tags("incoming")).encode())
    drop(source, "b.parquet", 0.0)
    assert (poll(source, inbox), kept(store)) == (1, ["a.parquet", "b.parquet"])


def test_a_buckets_watermark_is_bounded_by_time(bucket: Bucket) -> None:
    source, store = bucket.store("lake"), bucket.store()
    inbox = Inbox(store, TriggerConfig(prefix="incoming/", retention_s=1))
    source.write("incoming/a.parquet", b"1")
    assert poll(source, inbox) == 1
    time.sleep(2.1)  # the server's clock, not ours
    source.write("incoming/b.parquet", b"1")
    assert [poll(source, inbox), poll(source, inbox)] == [1, 0]
    assert list(json.loads(store.read(WATERMARK))["tags"]) == ["incoming/b.parquet"]
    source.write("incoming/a.parquet", b"2")
    assert [poll(source, inbox), poll(source, inbox)] == [1, 0]


def test_one_replica_an_hour_tidies_up(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    assert [is_due(store, at) for at in (1e6, 1e6 + 1, 1e6 + EVERY_S, 1e6 + EVERY_S + 1)] == [
        True, False, True, False,
    ]  # fmt: skip


def test_a_single_poll_tidies_up_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A CronJob polls once and ends: no replica is there an hour later."""
    store = store_with_model(tmp_path)
    decisions(store, monkeypatch, 1, 2)
    monkeypatch.setattr("pelican.retrain.trigger.inbox.now", lambda: AT)
    config = TriggerConfig(prefix="incoming/", audit_s=99 * DAY)
    keep_polling(store, config, CommandSubmitter(store, config), once=True)
    assert len(list(store.keys(AUDIT))) == 2 and len(read_audit(store)) == 20


AT = datetime(2026, 5, 20, 12, tzinfo=UTC)


def decisions(store: ObjectStore, monkeypatch: pytest.MonkeyPatch, *days: int) -> None:
    """Ten decisions on each day of May."""
    for day in days:
        for hour in range(10):
            at = datetime(2026, 5, day, hour, tzinfo=UTC)
            monkeypatch.setattr("pelican.retrain.trigger.inbox.now", lambda at=at: at)
            record(store, "one", "sealed", batch=day * 100 + hour)


def batches(entries: list[dict[str, Any]]) -> list[int]:
    return [entry["batch"] for entry in entries]


def test_past_days_become_one_object_each_and_old_ones_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FolderStore(tmp_path)
    decisions(store, monkeypatch, 1, 17, 18, 19, 20)
    before = read_audit(store)
    assert rotate(store, 10 * DAY, AT) == 3
    assert len(list(store.keys(AUDIT))) == 2 + 2 * 10
    assert read_audit(store) == [entry for entry in before if entry["batch"] >= 1700]
    decisions(store, monkeypatch, 17)  # of a replica whose clock is behind
    assert rotate(store, 10 * DAY, AT) == 1
    assert sum(batch // 100 == 17 for batch in batches(read_audit(store))) == 20
    assert rotate(store, 10 * DAY, AT) == 0


def test_a_replica_that_dies_while_it_packs_loses_and_doubles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FolderStore(tmp_path)
    decisions(store, monkeypatch, 10, 11)
    before = read_audit(store)
    with monkeypatch.context() as patch:
        patch.setattr(
            FolderStore, "delete", lambda self, key: (_ for _ in ()).throw(OSError("away"))
        )
        with pytest.raises(OSError, match="away"):
            rotate(store, 99 * DAY, AT)
    assert read_audit(store) == before
    rotate(store, 99 * DAY, AT)
    assert read_audit(store) == before and len(list(store.keys(AUDIT))) == 2


def test_two_replicas_pack_the_same_days_in_a_bucket(
    bucket: Bucket,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    decisions(bucket.store(), monkeypatch, 10, 11)
    before = read_audit(bucket.store())
    threads = [threading.Thread(target=rotate, args=(bucket.store(), 99 * DAY, AT)) for _ in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert read_audit(bucket.store()) == before
    assert len(list(bucket.store().keys(AUDIT))) == 2
