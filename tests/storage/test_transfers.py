"""Large files to a bucket and back when something breaks: processes, networks, disks, other writers."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pelican.errors import DamagedError, InfrastructureError
from pelican.storage import s3
from pelican.storage.digests import Identity, file_digest
from pelican.storage.s3 import S3Store
from tests.buckets import Bucket

PART = 5 << 20  # the least that S3 takes
SIZE = 3 * PART + 12_345


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "PART", PART)


def content(seed: int) -> bytes:
    return random.Random(seed).randbytes(SIZE)


@pytest.fixture
def large(tmp_path: Path) -> Path:
    path = tmp_path / "weights"
    path.write_bytes(content(0))
    return path


def put(store: S3Store, path: Path) -> None:
    store.put("weights", path)


def sends(monkeypatch: pytest.MonkeyPatch, store: S3Store) -> list[int]:
    """The numbers of the parts that are sent from now on."""
    sent: list[int] = []
    real = store.client._upload_part

    def send(*args: Any) -> str:
        sent.append(args[-1])
        return real(*args)

    monkeypatch.setattr(store.client, "_upload_part", send)
    return sent


def unfinished(store: S3Store) -> list[str]:
    # MinIO lists uploads by their whole name only.
    found = store.client._list_multipart_uploads(store.bucket, prefix=store._name("weights"))
    return [str(upload.upload_id) for upload in found.uploads]


def killed(store: S3Store, patch: str, work: str) -> None:
    """A process of the same cache that kills itself on its way."""
    script = f"""
import os, signal, sys
from pathlib import Path
from pelican.storage import s3
s3.PART = {PART}
def die():
    os.kill(os.getpid(), signal.SIGKILL)
{patch}
store = s3.S3Store({store.uri!r}, cache=Path({str(store.cache.parent.parent)!r}))
{work}
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", script], env=environment, check=False)
    assert done.returncode == -signal.SIGKILL


def kill_upload(store: S3Store, path: Path, parts: int = 2) -> None:
    patch = f"""
from minio import Minio
real, sent = Minio._upload_part, []
def send(*args):
    tag = real(*args)
    sent.append(tag)
    return tag if len(sent) < {parts} else die()
Minio._upload_part = send
s3.IN_FLIGHT = s3.PARALLEL  # one part at a time
"""
    killed(store, patch, f"store.put('weights', Path({str(path)!r}))")


@pytest.mark.parametrize("seed", [0, 1])
def test_a_killed_upload_starts_its_file_anew(
    bucket: Bucket, large: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    store = bucket.store()
    kill_upload(store, large)
    assert not store.exists("weights")
    left = unfinished(store)  # until the bucket's rules delete it
    assert len(left) == 1
    large.write_bytes(content(seed))  # the same, or other content
    sent = sends(monkeypatch, store)
    put(store, large)
    assert sorted(sent) == [1, 2, 3, 4]
    assert bucket.store().describe("weights") == (SIZE, file_digest(large))
    assert bucket.store().local("weights").read_bytes() == content(seed)
    assert unfinished(store) == left


def test_an_upload_of_many_files_goes_on_with_those_that_are_missing(
    bucket: Bucket, large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, large_too = bucket.store(), large.with_name("more")
    large_too.write_bytes(content(1))
    first.put("data/weights", large)
    store = bucket.store()  # another process: it remembers nothing
    sent = sends(monkeypatch, store)
    for path in (large, large_too):
        store.put(f"data/{path.name}", path)
    assert sorted(sent) == [1, 2, 3, 4], "of the second file alone"
    assert set(store.sizes("data").values()) == {SIZE} and len(store.sizes("data")) == 2
    large.write_bytes(content(2))
    store.put("data/weights", large)
    assert bucket.store().local("data/weights").read_bytes() == content(2)


def test_what_expires_by_age_is_always_sent(
    bucket: Bucket, large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.settings = replace(bucket.settings, tag_work=True)
    bucket.store().put("r/work/weights", large)
    store = bucket.store()
    sent = sends(monkeypatch, store)
    store.put("r/work/weights", large)
    assert sorted(sent) == [1, 2, 3, 4]
    tags = store.client.get_object_tags(store.bucket, store._name("r/work/weights"))
    assert tags == {"pelican": "work"}


def test_an_upload_that_somebody_ended_is_sent_whole(
    bucket: Bucket, large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, ended = bucket.store(), list[str]()
    real = store.client._upload_part

    def send(*args: Any) -> str:
        if args[-1] == 2 and not ended:
            ended.append(args[-2])
            store.client._abort_multipart_upload(store.bucket, store._name("weights"), args[-2])
        return real(*args)

    monkeypatch.setattr(store.client, "_upload_part", send)
    put(store, large)
    assert ended
    assert bucket.store().local("weights").read_bytes() == content(0)
    assert not unfinished(store)


def changing(monkeypatch: pytest.MonkeyPatch, large: Path, change: Callable[[], bool]) -> None:
    """While the second part is read something else writes, as long as `change` says so."""
    real = s3._SteadyFile.read

    def read(self: Any, size: int) -> bytes:
        if self.tell() == PART and change():
            with large.open("r+b") as file:
                file.seek(SIZE - 1)
                file.write(b"\0" if file.read(1) != b"\0" else b"\1")
                os.utime(file.fileno(), ns=(1, Identity.of(file.fileno()).mtime_ns + 1))
        return real(self, size)

    monkeypatch.setattr(s3._SteadyFile, "read", read)


def test_a_file_that_changed_meanwhile_is_sent_again(
    bucket: Bucket, large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, times = bucket.store(), iter([True])
    changing(monkeypatch, large, lambda: next(times, False))
    put(store, large)
    assert large.read_bytes() != content(0)
    assert bucket.store().local("weights").read_bytes() == large.read_bytes()
    assert not unfinished(store)


def test_a_file_that_never_rests_is_named_and_nothing_is_there(
    bucket: Bucket, large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = bucket.store()
    changing(monkeypatch, large, lambda: True)
    with pytest.raises(
        InfrastructureError, match=r"weights changed while it was uploaded; stop what"
    ):
        put(store, large)
    assert not store.exists("weights") and not unfinished(store)


def test_a_file_that_gets_shorter_meanwhile_is_sent_as_it_is_then(
    bucket: Bucket, large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, real = bucket.store(), s3.part_size

    def size(found: int) -> int:
        if large.stat().st_size == SIZE:
            os.truncate(large, SIZE - PART)
        return real(found)

    monkeypatch.setattr(s3, "part_size", size)
    put(store, large)
    assert bucket.store().local("weights").read_bytes() == content(0)[: SIZE - PART]


def test_parts_grow_with_a_file_beyond_their_number() -> None:
    for size in (PART + 1, 10_000 * PART, 10_000 * PART + 1, 5 << 40):
        part = s3.part_size(size)
        count = -(-size // part)
        assert count <= 10_000
        assert (count - 1) * part < size <= count * part


def test_a_killed_download_leaves_no_half_file(bucket: Bucket, large: Path) -> None:
    put(bucket.store(), large)
    store = bucket.store()
    patch = """
real, blocks = os.pwrite, []
def pwrite(*args):
    blocks.append(1)
    return real(*args) if len(blocks) < 7 else die()
os.pwrite = pwrite
"""
    killed(store, patch, "store.local('weights')")
    target = store.cache / "mirror" / store._name("weights")
    (half,) = target.parent.iterdir()
    assert half.name.endswith(".tmp") and not target.exists()
    assert store.local("weights").read_bytes() == content(0)
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("at", [0, PART - 1, 2 * PART, SIZE - 1])
def test_a_byte_damaged_on_the_way_is_found(
    bucket: Bucket, large: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    put(bucket.store(), large)
    store, real = bucket.store(), os.pwrite

    def pwrite(descriptor: int, block: memoryview, start: int) -> int:
        found = bytearray(block)
        if start <= at < start + len(found):
            found[at - start] ^= 1
        return real(descriptor, found, start)

    with monkeypatch.context() as damaged:
        damaged.setattr(os, "pwrite", pwrite)
        with pytest.raises(DamagedError, match="damaged"):
            store.local("weights")
    target = store.cache / "mirror" / store._name("weights")
    assert not list(target.parent.iterdir())
    assert store.local("weights").read_bytes() == content(0)


def test_a_file_with_a_part_damaged_on_the_way_is_sent_again(
    bucket: Bucket, large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = bucket.store()
    real = store.client._http.urlopen
    damaged: list[str] = []

    def urlopen(method: str, url: str, **more: Any) -> Any:
        if "partNumber=2" in url and not damaged:
            body = bytearray(more["body"])
            body[-1] ^= 1
            damaged.append(url)
            more["body"] = bytes(body)
        return real(method, url, **more)

    monkeypatch.setattr(store.client._http, "urlopen", urlopen)
    sent = sends(monkeypatch, store)
    put(store, large)
    assert damaged and sent.count(2) == 2
    assert not unfinished(store)
    assert bucket.store().local("weights").read_bytes() == content(0)


def test_a_range_that_breaks_off_goes_on_there(
    bucket: Bucket, large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(bucket.store(), large)
    store = bucket.store()
    real = store.client.get_object
    asked: list[tuple[int, int]] = []
    broken: list[int] = []

    def get(bucket: str, name: str, start: int, length: int, **more: Any) -> Any:
        asked.append((start, length))
        response: Any = real(bucket, name, start, length, **more)
        stream = response.stream

        def breaking(size: int) -> Any:
            for number, block in enumerate(stream(size)):
                if number == 2 and not broken:
                    broken.append(start)
                    raise ConnectionResetError("gone")
                yield block

        response.stream = breaking
        return response

    monkeypatch.setattr(store.client, "get_object", get)
    assert store.local("weights").read_bytes() == content(0)
    again = (broken[0] + (2 << 20), PART - (2 << 20))
    assert len(asked) == 5 and again in asked


def test_a_range_that_never_comes_ends_the_download(
    bucket: Bucket, large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(bucket.store(), large)
    store = bucket.store()
    real = store.client.get_object

    def get(bucket: str, name: str, start: int, length: int, **more: Any) -> Any:
        if start == 0:
            raise OSError(28, "No space left on device")
        return real(bucket, name, start, length, **more)

    monkeypatch.setattr(store.client, "get_object", get)
    with pytest.raises(OSError, match="No space"):
        store.local("weights")
    target = store.cache / "mirror" / store._name("weights")
    assert not list(target.parent.iterdir())


def test_after_another_start_of_the_machine_files_are_checked_once(
    bucket: Bucket, large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(bucket.store(), large)
    store = bucket.store()
    path = store.local("weights")
    before = path.stat()
    asked: list[Path] = []

    def digest(path: Path) -> str:
        asked.append(path)
        return file_digest(path)

    monkeypatch.setattr(s3, "file_digest", digest)
    assert store.local("weights") == path and not asked
    monkeypatch.setattr(s3, "boot_id", lambda: "another")
    for _ in range(2):
        assert store.local("weights").stat().st_ino == before.st_ino
    assert asked == [path]
    with path.open("r+b") as file:  # what a broken-off start may leave: all as it was but the bytes
        file.write(bytes(4096))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    monkeypatch.setattr(s3, "boot_id", lambda: "a third")
    assert store.local("weights").read_bytes() == content(0)


def test_a_file_that_somebody_changed_is_fetched_again(bucket: Bucket, large: Path) -> None:
    put(bucket.store(), large)
    store = bucket.store()
    path = store.local("weights")
    path.write_bytes(b"other")
    assert store.local("weights").read_bytes() == content(0)
