"""What of a bucket lies on this machine: files below `mirror/`, fetched again when their tag changes."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from minio import Minio

from pelican.metrics.catalogue import STORE_BYTES
from pelican.storage.identity import Identity, boot
from pelican.storage.manifests import file_digest
from pelican.storage.transfer import Fetched, download

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
        known = _Mark.read(mark)
        if known is not None and known.tag == tag and known.holds(target):
            if known.boot != boot():
                replace(known, boot=boot()).write(mark)
            return target
        found = self._fetch(name, target)
        _Mark(found.tag, found.sha256, boot(), Identity.of(target)).write(mark)
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

    def _fetch(self, name: str, target: Path) -> Fetched:
        if target.is_dir():
            shutil.rmtree(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        found = download(self._client(), self._bucket, name, target)
        STORE_BYTES.inc(found.size, direction="read")
        return found


@dataclass(frozen=True)
class _Mark:
    """Noted of a file of the mirror: its object's tag and digest, and the file as it was then.

    Nothing waits for the disk, so a machine that broke down may have lost a part of a file: since
    another start it is only trusted after its digest was taken again.
    """

    tag: str
    sha256: str | None
    boot: str
    identity: Identity

    def holds(self, target: Path) -> bool:
        """Whether the file is still what was fetched."""
        try:
            if Identity.of(target) != self.identity:
                return False
        except OSError:
            return False
        return self.boot == boot() or self.sha256 == file_digest(target)

    @classmethod
    def read(cls, path: Path) -> _Mark | None:
        try:
            found = json.loads(path.read_bytes())
            return cls(**{**found, "identity": Identity(**found["identity"])})
        except (OSError, ValueError, LookupError, TypeError):
            return None

    def write(self, path: Path) -> None:
        if path.is_dir():
            shutil.rmtree(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self)))
