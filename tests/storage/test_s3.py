"""The S3 store against a real MinIO: what a folder promises, and what only a network can break."""

from __future__ import annotations

import inspect
import json
import os
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from minio import Minio
from minio import time as minio_time
from prometheus_client import CollectorRegistry

from pelican.base.metrics import record_into
from pelican.errors import DamagedError, InfrastructureError, UserInputError
from pelican.monitoring import record
from pelican.stages.stage import input_digest, resolve_input
from pelican.storage import open_store, s3
from pelican.storage.checkpoints import list_files, newest_shard
from pelican.storage.digests import file_digest
from pelican.storage.s3 import S3Store
from pelican.storage.s3_client import S3Settings
from pelican.storage.store import FolderStore, ObjectStore
from tests.buckets import Bucket
from tests.minio_server import Server


def stores(bucket: Bucket, tmp_path: Path) -> list[ObjectStore]:
    return [FolderStore(tmp_path / "folder"), bucket.store()]


def test_it_behaves_as_a_folder_does(bucket: Bucket, tmp_path: Path) -> None:
    seen = []
    for store in stores(bucket, tmp_path):
        store.write("a/b.txt", b"1")
        store.write("a/c/d.txt", b"22")
        store.write("ab/e.txt", b"3")
        log: list[object] = [
            list(store.keys()),
            list(store.keys("a")),
            list(store.keys("a/b.txt")),
            list(store.keys("none")),
            [store.exists(k) for k in ("a", "a/b.txt", "a/b", "none", "a/c")],
            store.read("a/c/d.txt"),
            store.describe("a/c/d.txt"),
            store.sizes("a"),
            store.write("a/b.txt", b"9", if_absent=True),
            store.local("a/b.txt").read_bytes(),
            sorted(p.name for p in store.local("a").rglob("*.txt")),
        ]
        store.delete("a")
        log += [list(store.keys()), store.exists("a")]
        store.delete("none")
        for missing in (store.read, store.read_tagged, store.local, store.describe):
            with pytest.raises(KeyError):
                missing("none")
        for bad in ("../x", "/x", "a/../../x"):
            with pytest.raises(UserInputError, match="leaves the store"):
                store.read(bad)
        seen.append(log)
    assert seen[0] == seen[1]


def test_a_prefix_is_no_other_store(bucket: Bucket) -> None:
    one, other = bucket.store("one"), bucket.store("one-more")
    one.write("k", b"1")
    assert list(other.keys()) == []
    assert list(bucket.store("").keys()) == ["one/k"]


def test_of_many_writers_one_wins(bucket: Bucket) -> None:
    store = bucket.store()

    def claim(number: int) -> bool:
        return bucket.store().write("claim", str(number).encode(), if_absent=True)

    with ThreadPoolExecutor(8) as threads:
        won = list(threads.map(claim, range(16)))
    assert won.count(True) == 1
    assert store.read("claim") == str(won.index(True)).encode()


def test_no_increment_is_lost(bucket: Bucket) -> None:
    store = bucket.store()
    store.write("n", b"0")

    def add(_: int) -> None:
        while True:
            data, tag = store.read_tagged("n")
            if store.write("n", json.dumps(json.loads(data) + 1).encode(), if_tag=tag):
                return

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(add, range(24)))
    assert store.read("n") == b"24"
    _, tag = store.read_tagged("n")
    store.delete("n")
    assert not store.write("n", b"1", if_tag=tag)


def test_large_files_pass_in_parts_with_bounded_memory(bucket: Bucket, tmp_path: Path) -> None:
    path = tmp_path / "large"
    block = bytes(range(256)) * 4096
    with path.open("wb") as file:
        for number in range(100):
            file.write(number.to_bytes(4, "big") + block)
    tracemalloc.start()
    bucket.store().put("large", path)
    found = bucket.store().local("large")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert file_digest(found) == file_digest(path)
    assert peak < path.stat().st_size * 0.85, "the file was held in memory"


def test_what_is_there_is_not_fetched_again(bucket: Bucket) -> None:
    writer, reader = bucket.store(), bucket.store()
    for name in ("a", "b"):
        writer.write(f"folder/{name}", name.encode())
    folder = reader.local("folder")
    first = (folder / "a").stat().st_mtime_ns
    writer.write("folder/b", b"new")
    writer.write("folder/c", b"c")
    assert reader.local("folder") == folder
    assert (folder / "a").stat().st_mtime_ns == first
    assert (folder / "b").read_bytes() == b"new"
    writer.delete("folder/a")
    reader.local("folder")
    assert sorted(p.name for p in folder.iterdir() if p.name[0] != ".") == ["b", "c"]


def test_damage_is_found_on_read(bucket: Bucket) -> None:
    store = bucket.store()
    store.write("k", b"right")
    name = f"{store.prefix}/k"
    metadata = {"x-amz-meta-sha256": "0" * 64}
    store.client._put_object(store.bucket, name, b"wrong", metadata)  # type: ignore[arg-type]
    for read in (store.read, store.local):
        with pytest.raises(DamagedError, match="damaged"):
            read("k")


def test_what_was_sent_is_known_by_name_and_content(bucket: Bucket) -> None:
    store = bucket.store()
    path = store.local_root("runs/r") / "f"
    path.write_text("one")
    store.put("runs/r/f", path)
    assert store.local("runs/r/f") == path
    store.put("copy", path)
    assert bucket.store().read("copy") == b"one"
    path.write_text("other")
    assert store.local("runs/r/f").read_text() == "one"
    store.put("runs/r/f", path)
    assert bucket.store().read("runs/r/f") == b"other"
    store.delete("runs")
    path.parent.mkdir(parents=True)
    path.write_text("other")
    store.put("runs/r/f", path)
    assert bucket.store().read("runs/r/f") == b"other"


def test_what_others_uploaded_is_read_too(bucket: Bucket) -> None:
    store = bucket.store()
    store.client._put_object(store.bucket, f"{store.prefix}/k", b"plain", {})
    assert store.local("k").read_bytes() == b"plain"
    assert store.describe("k")[0] == 5


def test_a_stages_files_outlive_the_machine(bucket: Bucket) -> None:
    """`work/` is kept apart, restored whole elsewhere, and no part of what readers get."""
    here, there = bucket.store(), bucket.store()
    root = here.local_root("runs/r/loop-1/train")
    for name in ("checkpoint/model", "curve", "work/trainer/checkpoint-5/weights", ".tmp"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    here.upload("runs/r/loop-1/train")
    assert list(there.keys("runs")) == [
        "runs/r/loop-1/train/checkpoint/model",
        "runs/r/loop-1/train/curve",
    ]
    here.upload("runs/r/loop-1/train/work/trainer/checkpoint-5")
    folder = there.local("runs/r/loop-1/train")
    assert not (folder / "work").exists()
    stale = there.local_root("runs/r/loop-1/train/work/trainer") / "checkpoint-9"
    stale.mkdir()
    restored = there.restore("runs/r/loop-1/train/work/trainer")
    assert [p.name for p in restored.iterdir()] == ["checkpoint-5"]
    assert [p.name for p in (restored / "checkpoint-5").iterdir()] == ["weights"]


def test_a_restarted_server_costs_time_only(bucket: Bucket, minio: Server) -> None:
    store = bucket.store()
    store.write("k", b"before")
    minio.stop()
    later = threading.Timer(3.0, minio.start)
    later.start()
    try:
        store.write("k2", b"after")
        assert store.read("k") == b"before"
    finally:
        later.join()


def test_an_absent_server_is_one_sentence_soon(bucket: Bucket) -> None:
    settings = replace(bucket.settings, endpoint="http://127.0.0.1:9", patience_s=1)
    store = S3Store(bucket.uri, settings, bucket.folder)
    with pytest.raises(InfrastructureError, match="does not answer") as caught:
        store.probe()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, "refuses access"),
        ({"AWS_ACCESS_KEY_ID": "nobody"}, "refuses access"),
        ({"AWS_ACCESS_KEY_ID": "", "HOME": "/nonexistent"}, "no credentials"),
    ],
)
def test_wrong_credentials_are_one_sentence(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch, break_it: dict[str, str], words: str
) -> None:
    for name, value in break_it.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserInputError, match=words) as caught:
        bucket.store().read("k")
    assert "wrong" not in str(caught.value)


def test_a_clock_that_is_off_is_named(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    store, now = bucket.store(), minio_time.utcnow
    store.write("k", b"1")
    monkeypatch.setattr(minio_time, "utcnow", lambda: now() + timedelta(days=30))
    with pytest.raises(InfrastructureError, match=r"clock .*; set the clock .* continues"):
        store.read("k")


def test_a_missing_bucket_is_named(bucket: Bucket) -> None:
    store = S3Store("s3://nowhere-at-all/x", bucket.settings, bucket.folder)
    for ask in (store.probe, lambda: store.write("k", b"")):
        with pytest.raises(UserInputError, match="no bucket 'nowhere-at-all'"):
            ask()


def test_credentials_come_from_a_mounted_secret(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        (tmp_path / name).write_text(f"{__import__('os').environ[name]}\n")
        monkeypatch.delenv(name)
    monkeypatch.setenv("S3_CREDENTIALS_DIR", str(tmp_path))
    assert bucket.store().write("k", b"1")


def test_a_secret_that_is_rotated_is_read_again(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a Secret was made of a file: its newline is no part of the credentials."""
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    right = {name: os.environ[name] for name in names}
    for name in names:
        monkeypatch.delenv(name)
        (tmp_path / name).write_text("old\n")
    monkeypatch.setenv("S3_CREDENTIALS_DIR", str(tmp_path))
    store = bucket.store()
    with pytest.raises(UserInputError, match="refuses access"):
        store.write("k", b"1")
    for name in names:
        (tmp_path / name).write_text(f"{right[name]}\n")
    assert store.write("k", b"1")


def test_a_newline_is_no_part_of_credentials(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, f"{os.environ[name]}\n")
    assert bucket.store().write("k", b"1")


def test_the_private_call_for_conditions_is_what_we_know() -> None:
    """`S3Store._write_if` calls it: a new minio may change it, which no type checker says."""
    assert str(inspect.signature(Minio._put_object)) == (
        "(self, bucket_name: 'str', object_name: 'str', data: 'bytes',"
        " headers: 'Optional[DictType]' = None, query_params: 'Optional[DictType]' = None)"
        " -> 'ObjectWriteResult'"
    )
    assert "If-None-Match" not in inspect.getsource(Minio.put_object), "then call that instead"
    sources = Path(s3.__file__).parent.glob("*.py")
    private = [line for p in sources for line in p.read_text().splitlines() if "client._" in line]
    assert [line.strip() for line in private] == [
        "self.client._put_object(self.bucket, name, data, headers | condition)"
    ]


def test_uris_of_recipes_resolve(bucket: Bucket) -> None:
    outside = bucket.store("elsewhere")
    outside.write("pool/part.parquet", b"rows")
    uri, store = f"{bucket.uri}/elsewhere/pool", open_store(f"{bucket.uri}/store")
    assert (resolve_input(store, uri) / "part.parquet").read_bytes() == b"rows"
    before = input_digest(store, uri)
    assert input_digest(bucket.store(), uri) == before
    outside.write("pool/part.parquet", b"more")
    assert input_digest(store, uri) != before
    found = list_files(uri)
    assert found is not None
    assert dict(found.sizes) == {"part.parquet": 4}
    assert found.read("part.parquet", 1, 2) == b"or"
    with pytest.raises(UserInputError, match="nothing at"):
        resolve_input(store, f"{bucket.uri}/none")


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ({"S3_ENDPOINT_URL": "minio:9000"}, "http"),
        ({"S3_ENDPOINT_URL": "http://user:pw@minio:9000"}, "S3_ENDPOINT_URL holds a user"),
        ({"AWS_ENDPOINT_URL": "http://user:pw@minio:9000"}, "^AWS_ENDPOINT_URL holds a user"),
        ({"AWS_ENDPOINT_URL_S3": "minio:9000"}, "AWS_ENDPOINT_URL_S3='minio:9000' is not of"),
        ({"S3_ENDPOINT_URL": "user:pw@minio:9000/path"}, "a user or a password"),
        ({"S3_PATH_STYLE": "maybe"}, "auto, on, off"),
        ({"S3_PATIENCE_S": "long"}, "seconds"),
    ],
)
def test_settings_are_checked(env: dict[str, str], words: str) -> None:
    with pytest.raises(UserInputError, match=words) as caught:
        S3Settings.from_environment(env)
    assert "pw" not in str(caught.value)


def test_settings_travel_without_credentials() -> None:
    env = {"S3_ENDPOINT_URL": "https://s3:9000", "AWS_REGION": "eu", "AWS_SECRET_ACCESS_KEY": "x"}
    variables = S3Settings.from_environment(env).variables()
    assert S3Settings.from_environment(variables) == S3Settings.from_environment(env)
    assert "AWS_SECRET_ACCESS_KEY" not in variables


def test_a_shard_is_as_old_as_its_object_whenever_it_was_fetched(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = bucket.store("data")
    store.write("pool/a.parquet", b"a")
    store.write("pool/b/b.parquet", b"b")
    store.write("pool/read.me", b"c")
    store.write("pool-of-others/c.parquet", b"d")
    wanted = store.ages("pool")
    fetched = store.local("pool/a.parquet")
    os.utime(fetched, (2e9, 2e9))  # as if it had been fetched much later
    uri = f"{bucket.uri}/data/pool"
    registry = CollectorRegistry()
    record_into(registry, "rollout", "rl")
    try:
        record.checked({"train": (2, uri)})
    finally:
        record_into(None)
    labels = {"stage": "rollout", "phase": "rl", "pool": "train"}
    shown = registry.get_sample_value("pelican_pool_newest_shard_timestamp_seconds", labels)
    newest = max(wanted["pool/a.parquet"], wanted["pool/b/b.parquet"])
    assert shown == newest_shard(uri) == newest
    assert newest_shard(f"{uri}/a.parquet") == wanted["pool/a.parquet"]
    assert newest_shard(str(fetched)) == 2e9
    assert newest_shard(str(tmp_path / "none")) == newest_shard(f"{uri}-none") == 0.0
