"""A folder's conditional writes: of several writers one wins."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pelican.storage.store import FolderStore


def test_a_write_with_an_old_tag_is_refused(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    store.write("a", b"1")
    _, tag = store.read_tagged("a")
    assert store.write("a", b"2", if_tag=tag)
    assert not store.write("a", b"3", if_tag=tag)
    assert store.read("a") == b"2"
    assert list(store.keys()) == ["a"]


def test_an_object_that_is_gone_has_changed(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    store.write("a", b"1")
    _, tag = store.read_tagged("a")
    store.delete("a")
    assert not store.write("a", b"2", if_tag=tag)
    with pytest.raises(KeyError):
        store.read_tagged("a")


def test_no_increment_is_lost(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    store.write("n", b"0")

    def add(_: int) -> None:
        while True:
            data, tag = store.read_tagged("n")
            if store.write("n", json.dumps(json.loads(data) + 1).encode(), if_tag=tag):
                return

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(100)))
    assert store.read("n") == b"100"


def test_a_file_that_is_deleted_during_a_listing_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FolderStore(tmp_path)
    store.write("runs/a", b"12")
    monkeypatch.setattr(store, "keys", lambda prefix="": iter(["runs/a", "runs/gone"]))
    assert store.sizes("runs") == {"runs/a": 2} and store.ages("runs").keys() == {"runs/a"}
