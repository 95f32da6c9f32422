"""A file is there whole or not at all, and on the disk before a manifest names it."""

from __future__ import annotations

import os
import stat
import threading
import time
from pathlib import Path

import pytest

from pelican.base.files import is_locked, lock_file, replacing, run_alone
from pelican.errors import UserInputError
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


def test_a_lock_is_waited_for_as_long_as_one_says(tmp_path: Path) -> None:
    path = tmp_path / "new" / ".lock"
    assert not is_locked(path)
    with lock_file(path) as first:
        assert first is not None and is_locked(path)
        started = time.monotonic()
        with lock_file(path, wait_s=0.2) as second:
            assert second is None and time.monotonic() - started >= 0.2
        threading.Timer(0.2, os.close, [os.dup(first)]).start()  # a child that outlives its parent
    with lock_file(path) as third:
        assert third is not None and time.monotonic() - started >= 0.4
    assert not is_locked(path)


def test_who_runs_something_is_named(tmp_path: Path) -> None:
    path = tmp_path / "run.lock"
    sentence = f"run 'r' is being run by process {os.getpid()}; wait for it or end it first"
    with run_alone(path, "run 'r'"):
        with pytest.raises(UserInputError) as caught, run_alone(path, "run 'r'"):
            raise AssertionError
        assert str(caught.value) == sentence
