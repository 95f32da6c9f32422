"""What of a bucket lies on this machine: files below `mirror/`, fetched again when their tag changes."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from minio import Minio

from pelican.errors import InfrastructureError
from pelican.metrics.catalogue import STORE_BYTES
from pelican.storage.manifests import file_digest
from pelican.storage.transfer import download

PARALLEL = 4  # files on their way at a time
Tags = Mapping[str, str]  # an object's name -> its entity tag


class Mirror:
    """Files of one bucket. Several processes of a machine may share the folder."""

    def __init__(self, cache: Path, bucket: str, client: Callable[[], Minio]) -> None:
        self._cache, self._bucket, self._client = cache, bucket, client

    def file(self, name: str, tag: str) -> Path:
        """The object of this tag as a file."""
        target = self._cache / "mirror" / name
        mark = self._cache / "tags" / name
        if target.is_file() and mark.is_file() and mark.read_text() == tag:
            return target
        found = self._fetch(name, target)
        if mark.is_dir():
            shutil.rmtree(mark)
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.write_text(found)
        return target

    def tree(self, name: str, tags: Tags) -> Path:
        """A folder with these objects and no other file."""
        root = self._cache / "mirror"
        with ThreadPoolExecutor(PARALLEL) as threads:
            list(threads.map(lambda one: self.file(one, tags[one]), tags))
        wanted = {root / one for one in tags}
        for path in (root / name).rglob("*"):
            if path.is_file() and path not in wanted and not path.name.endswith(".tmp"):
                path.unlink(missing_ok=True)
        return root / name

    def copy(self, name: str, tags: Tags, root: Path) -> None:
        """The same below `root`, for whoever writes there: no part of the mirror."""
        shutil.rmtree(root / name, ignore_errors=True)
        with ThreadPoolExecutor(PARALLEL) as threads:
            list(threads.map(lambda one: self._fetch(one, root / one), tags))

    @contextmanager
    def only_one(self, name: str) -> Iterator[None]:
        """Of the processes of this machine one fetches, the others then find it there."""
        folder = self._cache / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        lock = folder / hashlib.sha256(name.encode()).hexdigest()[:24]
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _fetch(self, name: str, target: Path) -> str:
        """Download and check; returns the tag of what was found."""
        if target.is_dir():
            shutil.rmtree(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        tag, digest = download(self._client(), self._bucket, name, target)
        STORE_BYTES.inc(target.stat().st_size, direction="read")
        if digest and file_digest(target) != digest:
            target.unlink()
            raise InfrastructureError(
                f"s3://{self._bucket}/{name} was damaged on its way or in the store"
            )
        return tag
