"""The objects of an S3 bucket: reading, conditional writing, listing, deleting. No local files."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlencode, urlsplit

from minio import Minio
from minio.deleteobjects import DeleteObject
from minio.error import S3Error

from pelican.errors import InfrastructureError, UserInputError
from pelican.metrics.catalogue import STORE_BYTES
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
from pelican.storage.transfer import SHA256

WRITER = "x-amz-meta-writer"


class S3Objects(ObjectStore):
    """Objects of one bucket below a prefix. They carry their SHA-256 and are checked when read."""

    remote = True

    def __init__(self, uri: str, settings: S3Settings | None = None) -> None:
        """Raises UserInputError if `uri` is not `s3://bucket/prefix`; the endpoint is not asked."""
        parts = urlsplit(uri)
        self.bucket, self.prefix = parts.netloc, parts.path.strip("/")
        if parts.scheme != "s3" or not self.bucket or "@" in self.bucket:
            raise UserInputError(f"store {uri!r} is not of the form s3://bucket/prefix")
        self.uri = f"s3://{self.bucket}/{self.prefix}".rstrip("/")
        self.settings = settings or S3Settings.from_environment()

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
        data, headers = self._get(key)
        STORE_BYTES.inc(len(data), direction="read")
        digest = headers.get(SHA256)
        if digest and hashlib.sha256(data).hexdigest() != digest:
            raise InfrastructureError(f"{self.uri}/{key} was damaged on its way or in the store")
        return data, headers["etag"].strip('"')

    def write(
        self, key: str, data: bytes, *, if_absent: bool = False, if_tag: str | None = None
    ) -> bool:
        writer = uuid.uuid4().hex
        digest = hashlib.sha256(data).hexdigest()
        headers: dict[str, Any] = {SHA256: digest, WRITER: writer, **self._tagging(key)}
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

    def peek(self, key: str, start: int, length: int) -> bytes:
        """Some bytes of an object. Raises KeyError if there is none."""
        return self._get(key, start, length)[0]

    def _get(self, key: str, start: int = 0, length: int = 0) -> tuple[bytes, Mapping[str, str]]:
        """An object, or some bytes of it, and the headers. Raises KeyError."""

        def get() -> tuple[bytes, Mapping[str, str]]:
            response = self.client.get_object(self.bucket, self._name(key), start, length)
            try:
                return response.read(), response.headers
            finally:
                response.close()
                response.release_conn()

        try:
            with self._told():
                return again(get)
        except S3Error as error:
            if is_absent(error):
                raise KeyError(key) from None
            raise

    def _tagging(self, key: str) -> dict[str, str]:
        """The header by which the bucket's rules know what lies below a stage's `work/`."""
        wanted = self.settings.tag_work and f"/{WORK}" in key
        return {"x-amz-tagging": urlencode(work_tags())} if wanted else {}

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
