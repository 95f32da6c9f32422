"""A bucket of S3 as a store: `s3://bucket/prefix`, with a folder of this machine as its cache.

Objects carry their SHA-256 as metadata and are checked when they are read. What `local` gives lies
below `mirror/` in the cache and is fetched again when the object's tag has changed; what a stage
writes lies below `work/` until `put` or `upload` brings it to the bucket.
"""

from __future__ import annotations

import hashlib
import shutil
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlencode, urlsplit

from minio import Minio
from minio.commonconfig import Tags
from minio.deleteobjects import DeleteObject
from minio.error import S3Error

from pelican import settings as places
from pelican.errors import InfrastructureError, UserInputError
from pelican.metrics.catalogue import STORE_BYTES
from pelican.storage.manifests import file_digest
from pelican.storage.mirror import PARALLEL, Mirror
from pelican.storage.objects import WORK, ObjectStore
from pelican.storage.s3_client import (
    S3Settings,
    again,
    is_absent,
    lost_condition,
    make_client,
    told,
    work_tags,
)
from pelican.storage.transfer import PART

SHA256, WRITER = "x-amz-meta-sha256", "x-amz-meta-writer"


class S3Store(ObjectStore):
    """Objects of one bucket below a prefix."""

    remote = True

    def __init__(
        self, uri: str, settings: S3Settings | None = None, cache: Path | None = None
    ) -> None:
        """Raises UserInputError if `uri` is not `s3://bucket/prefix`; the endpoint is not asked."""
        parts = urlsplit(uri)
        self.bucket, self.prefix = parts.netloc, parts.path.strip("/")
        if parts.scheme != "s3" or not self.bucket or "@" in self.bucket:
            raise UserInputError(f"store {uri!r} is not of the form s3://bucket/prefix")
        self.uri = f"s3://{self.bucket}/{self.prefix}".rstrip("/")
        self.settings = settings or S3Settings.from_environment()
        place = hashlib.sha256(f"{self.settings.endpoint} {self.bucket}".encode()).hexdigest()
        self.cache = (cache or places.cache()) / "s3" / place[:16]
        self._mirror = Mirror(self.cache, self.bucket, lambda: self.client)
        # What was put from the cache: path -> name, etag, size, mtime.
        self._sent: dict[Path, tuple[str, str, int, int]] = {}

    @cached_property
    def client(self) -> Minio:
        return make_client(self.settings)

    def probe(self) -> None:
        """One quick request. Raises UserInputError or InfrastructureError if the store is not there."""
        with self._told():
            if not make_client(self.settings, patient=False).bucket_exists(self.bucket):
                raise UserInputError(
                    f"there is no bucket {self.bucket!r} at {self.settings.endpoint};"
                    " create it, or change the store"
                )

    def exists(self, key: str) -> bool:
        return self._stat(key) is not None or any(True for _ in self._objects(key, 1))

    def read(self, key: str) -> bytes:
        return self.read_tagged(key)[0]

    def read_tagged(self, key: str) -> tuple[bytes, str]:
        def get() -> tuple[bytes, str, str]:
            response = self.client.get_object(self.bucket, self._name(key))
            try:
                headers = response.headers
                return response.read(), headers["etag"].strip('"'), headers.get(SHA256, "")
            finally:
                response.close()
                response.release_conn()

        try:
            with self._told():
                data, tag, digest = again(get)
        except S3Error as error:
            if is_absent(error):
                raise KeyError(key) from None
            raise
        STORE_BYTES.inc(len(data), direction="read")
        if digest and hashlib.sha256(data).hexdigest() != digest:
            raise InfrastructureError(f"{self.uri}/{key} was damaged on its way or in the store")
        return data, tag

    def write(
        self, key: str, data: bytes, *, if_absent: bool = False, if_tag: str | None = None
    ) -> bool:
        writer = uuid.uuid4().hex
        headers: dict[str, Any] = {SHA256: hashlib.sha256(data).hexdigest(), WRITER: writer}
        tags = self._tags(key)
        if tags is not None:
            headers["x-amz-tagging"] = urlencode(tags)
        if if_absent:
            headers["If-None-Match"] = "*"
        elif if_tag is not None:
            headers["If-Match"] = f'"{if_tag}"'
        with self._told():
            try:
                # The public call knows no conditions.
                self.client._put_object(self.bucket, self._name(key), data, headers)
            except S3Error as error:
                if is_absent(error) and if_tag is not None:
                    return False
                if not lost_condition(error):
                    raise
                # A request that was tried again may have met its own first try.
                found = self._stat(key)
                return found is not None and (found.metadata or {}).get(WRITER) == writer
        STORE_BYTES.inc(len(data), direction="write")
        return True

    def keys(self, prefix: str = "") -> Iterator[str]:
        if prefix and self._stat(prefix) is not None:
            yield prefix
            return
        for found in self._objects(prefix):
            yield self._key(found)

    def tags(self, prefix: str) -> dict[str, str]:
        """Entity tags of the objects at or below `prefix`, by key: what tells that one changed."""
        own = self._stat(prefix)
        found = [own] if own is not None else self._objects(prefix)
        return {self._key(o): str(o.etag).strip('"') for o in found}

    def sizes(self, prefix: str) -> dict[str, int]:
        return {self._key(found): int(found.size or 0) for found in self._objects(prefix)}

    def ages(self, prefix: str) -> dict[str, float]:
        return {self._key(o): o.last_modified.timestamp() for o in self._objects(prefix)}

    def entries(self, prefix: str) -> dict[str, tuple[str, float]]:
        found = self._objects(prefix)
        return {self._key(o): (str(o.etag).strip('"'), o.last_modified.timestamp()) for o in found}

    def delete(self, key: str) -> None:
        """The manifest goes first: no reader may find it without its files."""
        names = [found.object_name for found in self._objects(key)]
        with self._told():
            self.client.remove_object(self.bucket, self._name(key))
            for name in [name for name in names if name.endswith("/manifest.json")]:
                self.client.remove_object(self.bucket, name)
            for error in self.client.remove_objects(self.bucket, map(DeleteObject, names)):
                raise InfrastructureError(f"{self.uri}/{key} could not be deleted: {error.message}")
        gone = self._name(key)
        for tree in ("work", "mirror"):
            shutil.rmtree(self.cache / tree / gone, ignore_errors=True)
        for path, (name, *_) in list(self._sent.items()):
            if not gone or name == gone or name.startswith(f"{gone}/"):
                del self._sent[path]

    def put(self, key: str, path: Path) -> None:
        stat, name = path.stat(), self._name(key)
        sent = self._sent.get(path)
        if sent is not None and (sent[0], *sent[2:]) == (name, stat.st_size, stat.st_mtime_ns):
            return
        metadata: dict[str, Any] = {SHA256: file_digest(path)}
        with self._told():
            written = again(
                lambda: self.client.fput_object(
                    self.bucket,
                    name,
                    str(path),
                    metadata=metadata,
                    tags=self._tags(key),
                    part_size=PART,
                    num_parallel_uploads=2,
                )
            )
        STORE_BYTES.inc(stat.st_size, direction="write")
        if path.is_relative_to(self.cache):
            self._sent[path] = (name, str(written.etag), stat.st_size, stat.st_mtime_ns)

    def _tags(self, key: str) -> Tags | None:
        """By which the bucket's rules know what lies below a stage's `work/`."""
        return work_tags() if self.settings.tag_work and f"/{WORK}" in key else None

    def describe(self, key: str) -> tuple[int, str]:
        found = self._stat(key)
        if found is None:
            raise KeyError(key)
        digest = (found.metadata or {}).get(SHA256)
        return int(found.size or 0), digest or file_digest(self.local(key))

    def peek(self, key: str, start: int, length: int) -> bytes:
        """Some bytes of an object. Raises KeyError if there is none."""
        try:
            with self._told():
                response = self.client.get_object(self.bucket, self._name(key), start, length)
                try:
                    return response.read()
                finally:
                    response.close()
                    response.release_conn()
        except S3Error as error:
            if is_absent(error):
                raise KeyError(key) from None
            raise

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
        with ThreadPoolExecutor(PARALLEL) as threads:
            list(threads.map(lambda path: self.put(f"{prefix}/{names[path]}", path), wanted))

    def _name(self, key: str) -> str:
        """The object's name in the bucket."""
        if key.startswith("/") or "://" in key or ".." in PurePosixPath(key).parts:
            raise UserInputError(f"object key {key!r} leaves the store; use a relative path")
        return "/".join(part for part in (self.prefix, key.strip("/")) if part)

    def _key(self, found: Any) -> str:
        return str(found.object_name)[len(self.prefix) + 1 if self.prefix else 0 :]

    def _told(self) -> Any:
        return told(self.settings, self.bucket)

    def _stat(self, key: str) -> Any:
        name = self._name(key)
        if not name:
            return None
        try:
            with self._told():
                return self.client.stat_object(self.bucket, name)
        except S3Error as error:
            if is_absent(error):
                return None
            raise

    def _objects(self, prefix: str, at_most: int | None = None) -> Iterator[Any]:
        """The objects below a prefix, sorted by name."""
        name = self._name(prefix)
        with self._told():
            found = self.client.list_objects(
                self.bucket,
                f"{name}/" if name else None,
                recursive=True,
                extra_query_params={"max-keys": str(at_most)} if at_most else None,
            )
            yield from (o for o in found if not str(o.object_name).endswith(("/", ".tmp")))

    def _is_what_was_sent(self, path: Path, name: str, tag: str) -> bool:
        try:
            stat = path.stat()
        except FileNotFoundError:
            return False
        return self._sent.get(path) == (name, tag, stat.st_size, stat.st_mtime_ns)
