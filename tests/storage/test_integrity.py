"""What lies in a store is compared with its record: digests that are noted, places that are checked, moves."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pelican.errors import DamagedError, InfrastructureError
from pelican.launch.step import heal_place
from pelican.runs.restore import find_copy, look_over, restore
from pelican.stages.replace import bring_back, set_aside
from pelican.storage import digests
from pelican.storage.digests import file_digest, file_digests, known_digests
from pelican.storage.manifests import (
    COPY,
    Manifest,
    commit_manifest,
    describe_outputs,
    mend_manifest,
    now,
    read_manifest,
)
from pelican.storage.s3 import SHA256, S3Store
from pelican.storage.store import MANIFEST, FolderStore, ObjectStore
from pelican.storage.verify import check_local, find_damage, find_record
from tests.buckets import Bucket
from tests.minio_server import Server

STAGE = "runs/r/loop-1/train-sft-sft"
WEIGHTS = f"{STAGE}/checkpoint/model.safetensors"


def commit_stage(store: ObjectStore, data: bytes = b"weights" * 100) -> Manifest:
    """A finished stage of two files."""
    for name, content in (("checkpoint/model.safetensors", data), ("curve.parquet", b"steps")):
        path = store.local_root(STAGE) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    store.upload(STAGE)
    moment = now()
    manifest = Manifest(
        stage="train-sft",
        run="r",
        loop=1,
        phase="sft",
        fingerprint="f",
        recipe="-",
        inputs={},
        outputs=describe_outputs(store, STAGE),
        metrics={"loss": 0.125, "tiny": 1e-300},
        started=moment,
        finished=moment,
    )
    commit_manifest(store, STAGE, manifest)
    return manifest


# Notes.


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that were hashed."""
    names: list[str] = []

    def counted(path: Path) -> str:
        names.append(path.name)
        return file_digest(path)

    monkeypatch.setattr(digests, "file_digest", counted)
    return names


def alter(path: Path, how: str) -> None:
    """Change a file in a way that leaves its size, and where possible its times."""
    data, state = bytearray(path.read_bytes()), path.stat()
    data[0] ^= 1
    if how == "replaced":
        other = path.with_name("other")
        other.write_bytes(data)
        other.replace(path)
    else:
        path.write_bytes(data)
    if how != "written":
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


@pytest.mark.parametrize("how", ["written", "times put back", "replaced"])
def test_a_file_is_read_once_until_it_changes(tmp_path: Path, read: list[str], how: str) -> None:
    paths = [tmp_path / name for name in ("a", "b")]
    for path in paths:
        path.write_bytes(path.name.encode())
    first = file_digests(paths)
    assert sorted(read) == ["a", "b"] and file_digests(paths) == first and len(read) == 2
    alter(paths[0], how)
    after = known_digests([*paths, tmp_path / "never read"])
    assert read[2:] == ["a"] and after[paths[0]] != first[paths[0]]
    assert after == file_digests(paths, trust=False) and len(read) == 5


def test_notes_end_with_the_machines_uptime(
    tmp_path: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"a")
    file_digests([path])
    monkeypatch.setattr(digests, "boot_id", lambda: "another start")
    file_digests([path])
    assert read == ["a", "a"]


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"boot": 1}', b"[" * 200_000, b"null"])
def test_damaged_notes_cost_time_alone(tmp_path: Path, read: list[str], damage: bytes) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"a")
    before = file_digests([path])
    note = digests._note_of(path)
    boot, *_ = json.loads(note.read_bytes())
    note.write_bytes(damage)
    assert file_digests([path]) == before and len(read) == 2
    note.write_bytes(json.dumps([boot, 1, "x"]).encode())
    assert file_digests([path]) == before and len(read) == 3


# Manifests.


@given(st.integers(0, 10_000), st.integers(0, 7))
def test_no_flip_of_a_manifest_is_believed(
    tmp_path_factory: pytest.TempPathFactory, at: int, bit: int
) -> None:
    store = FolderStore(tmp_path_factory.mktemp("store"))
    made = commit_stage(store)
    path = store.root / STAGE / MANIFEST
    data = bytearray(path.read_bytes())
    data[at % len(data)] ^= 1 << bit
    path.write_bytes(data)
    assert read_manifest(store, STAGE) == made  # by its copy
    (store.root / STAGE / COPY).write_bytes(data)
    try:
        assert read_manifest(store, STAGE) == made  # a flip that changes no value: white space
    except DamagedError as error:
        assert MANIFEST in str(error)


def test_a_manifest_of_before_is_read(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    made = commit_stage(store)
    tree = json.loads(made.model_dump_json())
    del tree["making"]
    store.delete(f"{STAGE}/{COPY}")
    store.write(f"{STAGE}/{MANIFEST}", json.dumps(tree).encode())
    found = read_manifest(store, STAGE)
    assert found == made and found.origin == "f"


def test_a_copy_alone_is_no_finished_stage(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    commit_stage(store)
    store.delete(f"{STAGE}/{MANIFEST}")
    assert read_manifest(store, STAGE) is None


# Places, moves and copies, in a folder and in a bucket.


@pytest.fixture(params=["folder", "bucket"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    if request.param == "folder":
        return FolderStore(tmp_path / "store")
    made: S3Store = request.getfixturevalue("bucket").store()
    return made


def damage(store: ObjectStore, key: str) -> bytes:
    """Other bytes below the same name, as a disk gives them; what is there now."""
    data = bytearray(store.read(key))
    data[len(data) // 2] ^= 1
    if isinstance(store, FolderStore):
        path = store.root / key
        state = path.stat()
        path.write_bytes(data)
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    else:
        assert isinstance(store, S3Store)
        noted = store.client.stat_object(store.bucket, store._name(key)).metadata or {}
        headers = {SHA256: noted[SHA256]}  # the writer's, so that the object claims to be whole
        store.client._put_object(store.bucket, store._name(key), bytes(data), headers)  # type: ignore[arg-type]
    return bytes(data)


def test_a_damaged_file_is_refused_and_told(store: ObjectStore) -> None:
    commit_stage(store)
    check_local(store, STAGE, store.local(STAGE))
    damage(store, WEIGHTS)
    for where in (STAGE, f"{STAGE}/checkpoint", WEIGHTS):
        with pytest.raises(DamagedError, match=r"model\.safetensors"):
            check_local(store, where, store.local(where))
    check_local(store, f"{STAGE}/curve.parquet", store.local(f"{STAGE}/curve.parquet"))
    recorded = find_record(store, STAGE)
    assert recorded is not None
    assert find_damage(store, recorded.files) == [WEIGHTS]
    assert find_damage(store, recorded.files, trust=False) == [WEIGHTS]


def test_a_damaged_manifest_is_read_by_its_copy_whoever_notices(store: ObjectStore) -> None:
    """A bucket refuses the bytes itself, a folder gives them."""
    made = commit_stage(store)
    damage(store, f"{STAGE}/{MANIFEST}")
    assert read_manifest(store, STAGE) == made
    damage(store, f"{STAGE}/{COPY}")
    with pytest.raises(DamagedError, match="no whole copy"):
        read_manifest(store, STAGE)


@pytest.mark.parametrize("name", [MANIFEST, COPY])
def test_of_two_manifests_the_damaged_one_is_written_anew(store: ObjectStore, name: str) -> None:
    """Else nobody could fetch the stage's folder from a bucket."""
    made = commit_stage(store)
    assert not heal_place(store, "r", "eval", STAGE)
    whole = store.read(f"{STAGE}/{name}")
    damage(store, f"{STAGE}/{name}")
    if store.remote:
        with pytest.raises(DamagedError, match=name.replace(".", r"\.")):
            store.local(STAGE)
    assert heal_place(store, "r", "eval", STAGE)
    assert store.read(f"{STAGE}/{name}") == whole and read_manifest(store, STAGE) == made
    assert (store.local(STAGE) / "curve.parquet").read_bytes() == b"steps"
    damage(store, f"{STAGE}/{MANIFEST}")
    damage(store, f"{STAGE}/{COPY}")
    assert not mend_manifest(store, STAGE)


def test_who_mends_an_object_gets_its_bytes_and_its_tag(store: ObjectStore) -> None:
    commit_stage(store)
    key = f"{STAGE}/curve.parquet"
    there = damage(store, key)
    data, tag = store.read_tagged(key, checked=False)
    assert data == there and store.write(key, b"steps", if_tag=tag)
    assert store.read(key) == b"steps"


def test_what_moves_aside_comes_back_whole_or_not_at_all(store: ObjectStore) -> None:
    made = commit_stage(store)
    set_aside(store, STAGE)
    assert read_manifest(store, STAGE) is None and not list(store.keys(STAGE))
    assert bring_back(store, STAGE, lambda found: found.fingerprint == "other") is None
    assert bring_back(store, STAGE, lambda found: found.fingerprint == "f") == made
    assert store.read(WEIGHTS) == b"weights" * 100 and read_manifest(store, STAGE) == made
    set_aside(store, STAGE)
    damage(store, WEIGHTS.replace("runs/r/", "runs/r/replaced/"))
    assert bring_back(store, STAGE, lambda found: True) is None


def test_a_copy_elsewhere_in_the_store_restores(store: ObjectStore) -> None:
    commit_stage(store)
    twin = STAGE.replace("runs/r/", "runs/twin/")
    for key in list(store.keys(STAGE)):
        store.write(key.replace(STAGE, twin), store.read(key))
    damage(store, WEIGHTS)
    recorded = find_record(store, STAGE)
    assert recorded is not None
    assert restore(store, recorded) == ([WEIGHTS], [])
    assert store.read(WEIGHTS) == b"weights" * 100


def test_this_machines_own_copy_of_a_damaged_object_restores_it(bucket: Bucket) -> None:
    store = bucket.store()
    commit_stage(store)
    store.local(STAGE)
    damage(store, WEIGHTS)
    recorded = find_record(store, STAGE)
    assert recorded is not None and restore(store, recorded) == ([WEIGHTS], [])
    assert bucket.store().read(WEIGHTS) == b"weights" * 100
    # Another machine has no such copy.
    damage(store, WEIGHTS)
    other = bucket.store()
    assert find_copy(other, WEIGHTS, recorded.files[WEIGHTS]) is None


def test_a_glance_at_a_run_reads_what_is_small(store: ObjectStore) -> None:
    commit_stage(store)
    assert look_over(store, "r") == []
    damage(store, f"{STAGE}/curve.parquet")
    store.delete(WEIGHTS)
    assert look_over(store, "r") == [WEIGHTS, f"{STAGE}/curve.parquet"]


# Where in an object of this many bytes a bit flips on the disk of the server: behind MinIO's record in the
# same file, in the first block of a file of its own, and behind bytes that are sent before MinIO sees it.
@pytest.mark.parametrize(("size", "where"), [(100, 0.95), (200_000, 0.1), (3_000_000, 0.5)])
def test_what_the_servers_disk_has_lost_is_damaged_and_can_be_written_again(
    bucket: Bucket, minio: Server, size: int, where: float
) -> None:
    store = S3Store(bucket.uri, replace(bucket.settings, patience_s=0), bucket.folder / "one")
    store.write("whole", b"x" * size)
    store.write("rotten", os.urandom(size))
    folder = minio.folder / store.bucket / "rotten"
    file = max(folder.rglob("*"), key=lambda path: path.stat().st_size if path.is_file() else -1)
    data = bytearray(file.read_bytes())
    data[int(len(data) * where)] ^= 1
    file.write_bytes(data)
    found = store.digests(["whole", "rotten"], trust=False)
    assert found["whole"] and found["rotten"] is None
    with pytest.raises(DamagedError, match="rotten is damaged in the store"):
        store.local("rotten")
    lost, tag = store.read_tagged("rotten", checked=False)
    assert lost == b"" and store.write("rotten", b"again", if_tag=tag)
    assert store.read("rotten") == b"again"


def test_a_server_that_is_away_has_lost_nothing(bucket: Bucket, minio: Server) -> None:
    store = S3Store(bucket.uri, replace(bucket.settings, patience_s=0), bucket.folder / "one")
    store.write("whole", b"x")
    minio.stop()
    try:
        with pytest.raises(InfrastructureError, match="does not answer"):
            store.digests(["whole"], trust=False)
    finally:
        minio.start()
    assert store.read("whole") == b"x"
