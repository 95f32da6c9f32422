"""A file is there whole or not at all, and on the disk before a manifest names it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from pelican.base.files import replacing
from pelican.storage.manifests import describe_outputs
from pelican.storage.store import FolderStore


def test_two_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    with replacing(path) as slow:
        slow.write_bytes(b"the slow one's")
        with replacing(path) as other:
            other.write_bytes(b"the other's")
        assert path.read_bytes() == b"the other's"
    assert path.read_bytes() == b"the slow one's"
    assert os.listdir(tmp_path) == ["rows.parquet"]


def test_outputs_are_on_the_disk_before_they_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FolderStore(tmp_path)
    for name in ("rows.parquet", "checkpoint/model.safetensors"):
        path = store.local_root("runs/r/stage") / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    synced: set[tuple[int, bool]] = set()

    def fsync(descriptor: int) -> None:
        about = os.fstat(descriptor)
        synced.add((about.st_ino, stat.S_ISDIR(about.st_mode)))

    monkeypatch.setattr(os, "fsync", fsync)
    outputs = describe_outputs(store, "runs/r/stage")
    base = tmp_path / "runs/r/stage"
    assert [o.path for o in outputs] == ["checkpoint/model.safetensors", "rows.parquet"]
    wanted = [base, *base.rglob("*")]
    assert synced == {(path.stat().st_ino, path.is_dir()) for path in wanted}
