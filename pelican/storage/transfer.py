"""Large objects as files: ranges in parallel, their digest taken on the way, memory of a few blocks."""

from __future__ import annotations

import fcntl
import hashlib
import os
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from minio import Minio
from minio.error import S3Error

from pelican.errors import InfrastructureError
from pelican.storage.s3_client import again, lost_condition

PART = 16 << 20  # bytes of one part or range
RANGES = 4  # of one file on their way at a time
SHA256 = "x-amz-meta-sha256"
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Fetched:
    """An object that became a file: its entity tag, its bytes, and the SHA-256 its writer noted."""

    tag: str
    size: int
    sha256: str | None


def download(client: Minio, bucket: str, name: str, target: Path) -> Fetched:
    """Write an object to `target`: under a temporary name, then checked, then renamed.

    All ranges are of one version: if it is replaced on the way, the new one is fetched. Not brought
    to the disk: what shall outlive the machine's end must be checked again (Mirror does). Raises
    InfrastructureError if the bytes have not the digest that their writer noted.
    """
    _clear(target)
    while True:
        try:
            return _download(client, bucket, name, target)
        except S3Error as error:
            if not lost_condition(error):
                raise


def _download(client: Minio, bucket: str, name: str, target: Path) -> Fetched:
    stat = client.stat_object(bucket, name)
    size, tag = int(stat.size or 0), str(stat.etag).strip('"')
    noted = (stat.metadata or {}).get(SHA256)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
    descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)  # says that somebody writes it: see _clear
        os.ftruncate(descriptor, size)
        growing = _Growing(descriptor, size)

        def fetch(number: int) -> None:
            try:
                again(lambda: _range(client, bucket, name, tag, growing, number))
            except BaseException:
                growing.give_up()
                raise

        with ThreadPoolExecutor(RANGES) as threads:
            ranges = [threads.submit(fetch, number) for number in range(len(growing.ends))]
            found = growing.digest() if noted else None
            try:
                for one in ranges:
                    one.result()
            finally:
                threads.shutdown(wait=False, cancel_futures=True)
        if found != noted:
            raise InfrastructureError(
                f"s3://{bucket}/{name} was damaged on its way or in the store"
            )
        temporary.replace(target)
    finally:
        os.close(descriptor)
        temporary.unlink(missing_ok=True)
    return Fetched(tag, size, noted)


def _range(client: Minio, bucket: str, name: str, tag: str, growing: _Growing, number: int) -> None:
    """What is missing of one range: tried again, it goes on where it broke off."""
    start = growing.ends[number]
    stop = min((number + 1) * PART, growing.size)
    if start == stop:
        return
    response = client.get_object(
        bucket, name, start, stop - start, request_headers={"If-Match": f'"{tag}"'}
    )
    try:
        for block in response.stream(_BLOCK):
            growing.write(number, block)
        if growing.ends[number] != stop:
            raise ConnectionError(f"{bucket}/{name} broke off at byte {growing.ends[number]}")
    finally:
        response.close()
        response.release_conn()


class _Growing:
    """A file whose ranges grow side by side, read in order while they do.

    `ends`: up to which byte each range is there. No byte is written twice, so what was digested is
    what stays.
    """

    def __init__(self, descriptor: int, size: int) -> None:
        self.size = size
        self.ends = list(range(0, size, PART))
        self._descriptor = descriptor
        self._grown = threading.Condition()
        self._given_up = False

    def write(self, number: int, block: bytes) -> None:
        """Append to one range."""
        at, view = self.ends[number], memoryview(block)
        while view:
            written = os.pwrite(self._descriptor, view, at)
            at, view = at + written, view[written:]
        with self._grown:
            self.ends[number] = at
            self._grown.notify()

    def give_up(self) -> None:
        """Let `digest` end: a range will not come."""
        with self._grown:
            self._given_up = True
            self._grown.notify()

    def digest(self) -> str | None:
        """SHA-256 of all bytes, taken of each as soon as all before it are there; None if given up."""
        digest, buffer, at = hashlib.sha256(), memoryview(bytearray(_BLOCK)), 0
        while at < self.size:
            there = self._past(at)
            if there is None:
                return None
            read = os.preadv(self._descriptor, [buffer[: there - at]], at)
            digest.update(buffer[:read])
            at += read
        return digest.hexdigest()

    def _past(self, at: int) -> int | None:
        """Wait for the byte `at`; up to which byte its range is there. None if given up."""
        number = at // PART
        with self._grown:
            self._grown.wait_for(lambda: self._given_up or self.ends[number] > at)
            return None if self._given_up else self.ends[number]


def _clear(target: Path) -> None:
    """Delete what a killed download of this file left: whoever still writes holds a lock."""
    for left in target.parent.glob(f".{target.name}.*.tmp"):
        with suppress(OSError), left.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            left.unlink()
