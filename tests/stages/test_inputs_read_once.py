"""Inputs are hashed where it says something new: not shards of a version, not again by replicas."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pelican.data import versions
from pelican.data.versions import (
    VERSION,
    Imported,
    Version,
    commit,
    hash_files,
    shard_of,
    trust_versions,
)
from pelican.errors import InfrastructureError
from pelican.stages.fingerprint import begin, identity_seen, stage_fingerprint
from pelican.stages.runner import _wait_for_begin
from pelican.stages.stage import StageSpec
from pelican.storage import open_store
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
    digest = versions.file_digest  # type: ignore[attr-defined]

    def counted(path: Path) -> str:
        names.append(path.name)
        return digest(path)

    monkeypatch.setattr(versions, "file_digest", counted)
    return names


def test_shards_of_a_version_count_by_what_it_says(pool: Path, read: list[str]) -> None:
    found = trust_versions(pool)
    assert sorted(read) == ["README.md", VERSION]
    assert found == hash_files(pool)


@pytest.mark.parametrize("change", ["bytes", "size", "mode", "time", "gone"])
def test_a_shard_that_was_touched_is_read(pool: Path, read: list[str], change: str) -> None:
    before = trust_versions(pool)
    shard = sorted(pool.glob("*.parquet"))[0]
    data = shard.read_bytes()
    if change != "time":
        shard.chmod(0o644)
    if change == "bytes":
        shard.write_bytes(bytes([data[0] ^ 1]) + data[1:])
        shard.chmod(0o444)
    elif change == "size":
        state = shard.stat()
        shard.write_bytes(data + b"x")
        os.utime(shard, ns=(state.st_atime_ns, state.st_mtime_ns))
        shard.chmod(0o444)
    elif change == "time":
        later = (pool / VERSION).stat().st_mtime_ns + 1
        os.utime(shard, ns=(later, later))
    elif change == "gone":
        shard.unlink()
    read.clear()
    after = trust_versions(pool)
    assert (shard.name in read) == (change != "gone")
    assert after == hash_files(pool)
    assert (after == before) == (change in ("mode", "time"))


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
