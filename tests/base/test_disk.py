"""A disk that is full, broken or not to be written: one sentence, its status, and nothing left."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest

from pelican.base.disk import explain_disk, explained
from pelican.base.files import is_locked, lock_file, replacing
from pelican.data.tables import write_frame, write_table
from pelican.errors import InfrastructureError, PelicanError
from pelican.storage.store import FolderStore
from tests.conftest import ROOT

MEANINGS = [
    (OSError(errno.ENOSPC, "No space", "/s/x"), 75, "/s/x: the disk is full; free some space"),
    (OSError(errno.EDQUOT, "Quota", "/s/x"), 75, "/s/x: the disk's quota is used up"),
    (OSError(errno.EIO, "I/O", "/s/x"), 75, "/s/x: the disk had an error"),
    (OSError(errno.EROFS, "Read-only", "/s/x"), 2, "/s/x: the disk may only be read"),
    (PermissionError(errno.EACCES, "Permission denied", "/s/x"), 2, "/s/x: no permission"),
    (OSError(errno.EFBIG, "File too large", "/s/x"), 2, "/s/x: it would be larger"),
    (RuntimeError("I/O error: No space left on device (os error 28)"), 75, "the disk is full"),
    (RuntimeError("PytorchStreamWriter failed writing file data/7"), 75, "the disk is full"),
    (pl.exceptions.ComputeError("Read-only file system (os error 30)"), 2, "may only be read"),
]


@pytest.mark.parametrize(("error", "status", "words"), MEANINGS, ids=lambda value: str(value)[:40])
def test_an_error_of_the_disk_is_a_sentence_with_its_status(
    error: Exception, status: int, words: str
) -> None:
    found = explain_disk(error)
    assert found is not None and found.exit_code == status and words in str(found)
    with pytest.raises(type(found)), explained():
        try:
            raise error
        except Exception as first:
            raise RuntimeError("a library wraps it") from first


@pytest.mark.parametrize(
    "error", [FileNotFoundError(errno.ENOENT, "x"), KeyError("x"), ConnectionResetError(104, "x")]
)
def test_other_errors_stay_what_they_are(error: Exception) -> None:
    assert explain_disk(error) is None
    with pytest.raises(type(error)), explained():
        raise error


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def write(store: FolderStore) -> None:
    store.write("a/new", bytes(1 << 20))


def swap(store: FolderStore) -> None:
    store.write("a/old", bytes(1 << 20), if_tag=store.read_tagged("a/old")[1])


def create(store: FolderStore) -> None:
    store.write("a/new", bytes(1 << 20), if_absent=True)


def put(store: FolderStore) -> None:
    store.put("a/new", next(Path(pa.__file__).parent.glob("libarrow.so*")))  # some MB


def table(store: FolderStore) -> None:
    write_table(
        store.local_root("a") / "new", pa.table({"x": os.urandom(1 << 20).hex().split("0")})
    )


def frame(store: FolderStore) -> None:
    write_frame(store.local_root("a") / "new", pl.DataFrame({"x": list(os.urandom(1 << 20))}))


def text(store: FolderStore) -> None:
    with replacing(store.local_root("a") / "new") as file:
        file.write_bytes(bytes(1 << 20))


WRITES = [write, swap, create, put, table, frame, text]


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    store = FolderStore(tmp_path / "store")
    store.write("a/old", b"old")
    return store


def in_child(root: Path, size: int = 0, user: int = 0) -> dict[str, str]:
    """What each of WRITES ended with in a process of its own, whose limits stay there."""
    command = [sys.executable, "-m", "tests.base.test_disk", str(root), str(size), str(user)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended
    return json.loads(ended.stdout)


def be_child(root: str, size: str, user: str) -> None:
    """What that process does."""
    if int(size):
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(size), int(size)))
    if int(user):
        os.setgroups([])
        os.setgid(int(user))
        os.setuid(int(user))
    said = {}
    for act in WRITES:
        try:
            with explained():
                act(FolderStore(root))
        except PelicanError as error:
            said[act.__name__] = f"{error.exit_code} {error}"
    print(json.dumps(said))


def test_a_write_that_breaks_off_leaves_nothing(store: FolderStore) -> None:
    said = in_child(store.root, size=1 << 16)
    assert [name for name in left(store.root) if not name.endswith(".lock.tmp")] == ["old"]
    assert store.read("a/old") == b"old"
    assert sorted(said) == sorted(act.__name__ for act in WRITES)
    assert all(text.startswith("2 ") and "ulimit -f" in text for text in said.values()), said


needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root may mount, or be another")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 300 KB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(folder)], capture_output=True
    )
    if made.returncode:
        pytest.skip("nothing may be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@needs_root
@pytest.mark.parametrize("act", WRITES, ids=lambda act: act.__name__)
def test_a_full_disk_is_75_and_leaves_nothing(small_disk: Path, act: object) -> None:
    store = FolderStore(small_disk / "store")
    store.write("a/old", b"old")
    with pytest.raises(InfrastructureError, match="the disk is full"), explained():
        act(store)
    assert [name for name in left(store.root) if not name.endswith(".lock.tmp")] == ["old"]
    assert store.read("a/old") == b"old"


@needs_root
def test_who_may_only_read_is_told_so(store: FolderStore) -> None:
    for folder in (store.root.parent, *store.root.parent.parents):
        if folder.stat().st_uid == os.getuid() and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o055)
    said = in_child(store.root, user=65534)
    assert left(store.root) == ["old"]
    assert sorted(said) == sorted(act.__name__ for act in WRITES)
    assert all(text.startswith("2 ") and "no permission" in text for text in said.values()), said


def test_whether_a_lock_is_held_is_asked_without_writing(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    assert not is_locked(path) and not path.exists()
    with lock_file(path):
        assert is_locked(path)
    assert not is_locked(path)
    if os.getuid() == 0:
        path.chmod(0o444)
        tmp_path.chmod(0o755)
    assert not is_locked(path)


def test_a_device_that_is_full_is_75() -> None:
    """`/dev/full` takes no byte: as any file of a full disk, without one."""
    command = [sys.executable, "-c", "from pelican.cli.main import main; main()", "runs"]
    with open("/dev/full", "w") as full:
        ended = subprocess.run(
            [*command, "--store", "/nowhere"], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert ended.returncode == 75 and "Traceback" not in ended.stderr, ended


if __name__ == "__main__":
    be_child(*sys.argv[1:])
