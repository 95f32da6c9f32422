"""Inputs are hashed where it says something new: not shards of a version, not again by replicas."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pelican.data.versions import (
    VERSION,
    Imported,
    Version,
    check_version,
    commit,
    hash_files,
    noted_files,
    shard_of,
)
from pelican.errors import InfrastructureError, UserInputError
from pelican.stages.fingerprint import begin, identity_seen, stage_fingerprint
from pelican.stages.runner import _wait_for_begin
from pelican.stages.stage import StageSpec
from pelican.storage import digests, open_store
from pelican.storage.store import ObjectStore
from tests.data.factory import sample, write_pool
from tests.stages.test_rollout import spec as make_spec


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    """A version of two shards, as an import commits it."""
    staged = write_pool(tmp_path / "staged", [sample(i) for i in range(4)], per_shard=2)
    (staged / "README.md").write_text("what it is\n")
    shards = tuple(shard_of(path, 2) for path in sorted(staged.glob("*.parquet")))
    source = Imported(path="-", reader="-", fingerprint="-", rows=4, quarantined={})
    version = Version(
        id="", sources=(source,), settings={}, shards=shards, rows=4, quarantined=0, counts={}
    )
    (tmp_path / "pool.versions").mkdir()
    assert len(commit(tmp_path / "pool", staged, version).shards) == 2
    return tmp_path / "pool"


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that were hashed."""
    names: list[str] = []
    digest = digests.file_digest

    def counted(path: Path) -> str:
        names.append(path.name)
        return digest(path)

    monkeypatch.setattr(digests, "file_digest", counted)
    return names


def test_shards_of_a_version_count_by_what_it_says(pool: Path, read: list[str]) -> None:
    found = noted_files(pool)
    assert sorted(read) == ["README.md", VERSION]
    read.clear()
    assert noted_files(pool) == found and not read
    assert found == hash_files(pool)


def test_whoever_reads_a_version_reads_its_bytes_once(pool: Path, read: list[str]) -> None:
    check_version(pool)
    assert sorted(read) == sorted(path.name for path in pool.iterdir())
    read.clear()
    check_version(pool)
    assert not read


@pytest.mark.parametrize("change", ["bytes", "size", "mode", "time", "gone"])
def test_a_shard_that_is_not_what_was_imported_is_refused(
    pool: Path, read: list[str], change: str
) -> None:
    check_version(pool)
    before = noted_files(pool)
    shard = sorted(pool.glob("*.parquet"))[0]
    data, state = shard.read_bytes(), shard.stat()
    if change != "time":
        shard.chmod(0o644)
    if change in ("bytes", "size"):
        shard.write_bytes(bytes([data[0] ^ 1]) + data[1:] if change == "bytes" else data + b"x")
        shard.chmod(0o444)
        os.utime(shard, ns=(state.st_atime_ns, state.st_mtime_ns))  # as a disk that rots
    elif change == "time":
        os.utime(shard, ns=(1, 1))
    elif change == "gone":
        shard.unlink()
    read.clear()
    if change in ("mode", "time"):
        check_version(pool)
        assert read == [shard.name]
    else:
        with pytest.raises(
            UserInputError, match=rf"is not what was imported as version .*{shard.name}"
        ):
            check_version(pool)
    assert noted_files(pool) == before  # what a finished stage is known by stays


@pytest.fixture
def job(tmp_path: Path) -> tuple[ObjectStore, StageSpec]:
    """A rollout of a pool that was not imported."""
    folder = write_pool(tmp_path / "plain", [sample(i) for i in range(4)], per_shard=2)
    spec = make_spec(tmp_path, folder)
    return open_store(spec.store), spec


def test_replicas_do_not_read_what_the_first_has_read(
    job: tuple[ObjectStore, StageSpec], read: list[str]
) -> None:
    store, spec = job
    identity = begin(store, spec)
    assert identity == stage_fingerprint(store, spec) and read
    read.clear()
    assert identity_seen(store, spec) == identity
    assert _wait_for_begin(store, spec) == identity
    assert not read


def test_a_replica_whose_copy_is_of_another_time_reads_it(
    job: tuple[ObjectStore, StageSpec], read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, spec = job
    identity = begin(store, spec)
    shard = next(Path(spec.inputs["pool"]).glob("*.parquet"))
    os.utime(shard, ns=(1, 1))
    read.clear()
    assert identity_seen(store, spec) is None
    assert _wait_for_begin(store, spec) == identity
    assert shard.name in read
    # Other content: the first replica's prefix is not this one's.
    shard.write_bytes(shard.read_bytes() + b"x")
    monkeypatch.setattr("pelican.stages.runner._BEGIN_S", 0.0)
    with pytest.raises(InfrastructureError, match="did not begin"):
        _wait_for_begin(store, spec)
