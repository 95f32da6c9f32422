"""A bucket of S3 as a store: `s3://bucket/prefix`, with a folder of this machine as its cache.

What `local` gives lies below `mirror/` in the cache and is fetched again when the object's tag has
changed; what a stage writes lies below `work/` until `put` or `upload` brings it to the bucket.
"""

from __future__ import annotations

import hashlib
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pelican import settings as places
from pelican.metrics.catalogue import STORE_BYTES
from pelican.storage.identity import Identity
from pelican.storage.manifests import file_digest
from pelican.storage.mirror import PARALLEL, Mirror
from pelican.storage.objects import WORK
from pelican.storage.s3_client import S3Settings
from pelican.storage.s3_objects import S3Objects
from pelican.storage.transfer import SHA256
from pelican.storage.uploads import Sent, Uploader

IN_FLIGHT = 8  # parts in memory at a time, over all files of one upload


class S3Store(S3Objects):
    """Objects of one bucket below a prefix, and the local files that stand for them."""

    def __init__(
        self, uri: str, settings: S3Settings | None = None, cache: Path | None = None
    ) -> None:
        super().__init__(uri, settings)
        place = hashlib.sha256(f"{self.settings.endpoint} {self.bucket}".encode()).hexdigest()
        self.cache = (cache or places.cache()) / "s3" / place[:16]
        self._mirror = Mirror(self.cache, self.bucket, lambda: self.client)
        # What was put from the cache: path -> name, and what was sent.
        self._sent: dict[Path, tuple[str, Sent]] = {}

    def put(self, key: str, path: Path) -> None:
        self._put(key, path, IN_FLIGHT // PARALLEL)

    def _put(self, key: str, path: Path, parallel: int) -> None:
        name = self._name(key)
        known = self._sent.get(path)
        if known is not None and (known[0], known[1].identity) == (name, Identity.of(path)):
            return
        uploader = Uploader(self.client, self.bucket, self.cache / "uploads")
        with self._told():
            sent = uploader.send(path, name, self._tagging(key), parallel)
        STORE_BYTES.inc(sent.identity.size, direction="write")
        if path.is_relative_to(self.cache):
            self._sent[path] = (name, sent)

    def delete(self, key: str) -> None:
        super().delete(key)
        gone = self._name(key)
        for tree in ("work", "mirror"):
            shutil.rmtree(self.cache / tree / gone, ignore_errors=True)
        for path, (name, *_) in list(self._sent.items()):
            if not gone or name == gone or name.startswith(f"{gone}/"):
                del self._sent[path]

    def describe(self, key: str) -> tuple[int, str]:
        found = self._stat(key)
        if found is None:
            raise KeyError(key)
        digest = (found.metadata or {}).get(SHA256)
        return int(found.size or 0), digest or file_digest(self.local(key))

    def local(self, key: str) -> Path:
        name = self._name(key)
        with self._mirror.only_one(name), self._told():
            found = self._stat(key)
            if found is not None:
                written = self.cache / "work" / name
                if self._is_what_was_sent(written, name, str(found.etag)):
                    return written
                return self._mirror.file(name, str(found.etag))
            below = f"{name}/" if name else ""
            tags = {
                str(o.object_name): str(o.etag)
                for o in self._objects(key)
                if not str(o.object_name).removeprefix(below).startswith(WORK)
            }
            if not tags:
                raise KeyError(key)
            return self._mirror.tree(name, tags)

    def local_root(self, prefix: str) -> Path:
        path = self.cache / "work" / self._name(prefix)
        path.mkdir(parents=True, exist_ok=True)
        return path

    def restore(self, prefix: str) -> Path:
        with self._told():
            tags = {str(o.object_name): str(o.etag) for o in self._objects(prefix)}
            self._mirror.copy(self._name(prefix), tags, self.cache / "work")
        return self.local_root(prefix)

    def upload(self, prefix: str, *, skip: tuple[str, ...] = ()) -> None:
        root = self.local_root(prefix)
        found = [path for path in sorted(root.rglob("*")) if path.is_file()]
        names = {path: path.relative_to(root).as_posix() for path in found}
        wanted = [
            path
            for path, name in names.items()
            if not name.startswith(WORK) and not name.endswith(".tmp") and name not in skip
        ]
        parallel = IN_FLIGHT // max(1, min(PARALLEL, len(wanted)))

        def put(path: Path) -> None:
            self._put(f"{prefix}/{names[path]}", path, parallel)

        with ThreadPoolExecutor(PARALLEL) as threads:
            list(threads.map(put, wanted))

    def _is_what_was_sent(self, path: Path, name: str, tag: str) -> bool:
        try:
            return self._sent.get(path) == (name, Sent(Identity.of(path), tag))
        except FileNotFoundError:
            return False
