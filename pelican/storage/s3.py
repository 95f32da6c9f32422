"""A bucket of S3 as a store, `s3://bucket/prefix`, with a folder of this machine as its cache.

Below the cache, `mirror/` has what `local` fetched, and is fetched again when an object's entity tag
has changed; `work/` has what a stage writes until `put` or `upload` brings it to the bucket.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar
from urllib.parse import urlencode, urlsplit

from minio import Minio
from minio.commonconfig import REPLACE, CopySource, Tags
from minio.datatypes import Object
from minio.deleteobjects import DeleteObject
from minio.error import S3Error
from minio.helpers import check_bucket_name

from pelican.base.files import lock_file, resolve_below
from pelican.base.metrics import STORE_BYTES
from pelican.base.parse import parse_json
from pelican.config import env
from pelican.errors import DamagedError, InfrastructureError, UserInputError
from pelican.storage.digests import Identity, boot_id, file_digest, file_digests, note_digest
from pelican.storage.s3_client import (
    S3Settings,
    explain_errors,
    is_absent,
    is_lost_condition,
    is_transient,
    is_unreadable,
    make_client,
    no_bucket,
    receiving,
    retry,
)
from pelican.storage.store import MANIFEST, WORK, ObjectStore

PART = 16 << 20  # bytes of one part of an upload, or of one range of a download
PARALLEL = 4  # files transferred at a time
IN_FLIGHT = 8  # parts sent at a time, over all files of one upload
RANGES = 4  # ranges fetched at a time, of one file
SHA256 = "x-amz-meta-sha256"
WRITER = "x-amz-meta-writer"
_BLOCK = 1 << 20
_MOST_PARTS = 10_000  # of one object, by S3
_MOST_COPIED = 5 << 30  # bytes that one request copies, by S3; minio-py copies more in parts
_READS = 2  # of bytes that are not those that were written: they may be damaged on the way
Taken = TypeVar("Taken")
EntityTags = Mapping[str, str]  # an object's name -> its entity tag


class S3Store(ObjectStore):
    """Objects of one bucket below a prefix, and the local files that stand for them.

    Objects carry their SHA-256, and are compared with it when they are read.
    """

    remote = True

    def __init__(
        self, uri: str, settings: S3Settings | None = None, cache: Path | None = None
    ) -> None:
        """Raises UserInputError if `uri` is not `s3://bucket/prefix`; sends no request."""
        parts = urlsplit(uri)
        self.bucket, self.prefix = parts.netloc, parts.path.strip("/")
        if parts.scheme != "s3" or not self.bucket or {"@", ":"} & {*self.bucket}:
            raise UserInputError("the store's address is not of the form s3://bucket/prefix")
        try:
            check_bucket_name(self.bucket)
        except ValueError as error:
            raise UserInputError(
                f"store {uri!r}: {error}; a bucket's name has 3 to 63 letters, digits, dots and dashes"
            ) from None
        self.uri = f"s3://{self.bucket}/{self.prefix}".rstrip("/")
        self.settings = settings or S3Settings.from_environment()
        place = hashlib.sha256(f"{self.settings.endpoint} {self.bucket}".encode()).hexdigest()
        self.cache = (cache or env.cache()) / "s3" / place[:16]
        self._mirror = Mirror(self.cache, self.bucket, lambda: self.client, self._reading)
        # Files of the cache that were put: path -> the object's name and tag, the file as it was.
        self._sent: dict[Path, tuple[str, str, Identity]] = {}

    @cached_property
    def client(self) -> Minio:
        return make_client(self.settings)

    def probe(self) -> None:
        with self._explained():
            if not make_client(self.settings, patient=False).bucket_exists(self.bucket):
                raise no_bucket(self.settings, self.bucket)

    # Objects: reading, writing, listing, deleting.

    def exists(self, key: str) -> bool:
        return self._stat(key) is not None or any(True for _ in self._objects(key, 1))

    def read(self, key: str) -> bytes:
        return self.read_tagged(key)[0]

    def read_tagged(self, key: str, *, checked: bool = True) -> tuple[bytes, str]:
        for _ in range(_READS):
            try:
                data, headers = self._get(key)
            except DamagedError:  # lost by the server's disk, which still has the tag
                found = None if checked else self._stat(key)
                if found is None:
                    raise
                return b"", str(found.etag)
            STORE_BYTES.inc(len(data), direction="read")
            digest = headers.get(SHA256)
            if not checked or not digest or hashlib.sha256(data).hexdigest() == digest:
                return data, headers["etag"].strip('"')
        raise DamagedError(_damaged(f"{self.uri}/{key}"))

    def peek(self, key: str, start: int, length: int) -> bytes:
        """Some bytes of an object. Raises KeyError if there is none."""
        return self._get(key, start, length)[0]

    def write(
        self, key: str, data: bytes, *, if_absent: bool = False, if_tag: str | None = None
    ) -> bool:
        name = self._name(key)
        with self._explained():
            if if_absent:
                written = self._write_if(name, data, {"If-None-Match": "*"}, key)
            elif if_tag is not None:
                written = self._write_if(name, data, {"If-Match": f'"{if_tag}"'}, key)
            else:
                send(self.client, self.bucket, name, data, self._tags(key))
                written = True
        if written:
            STORE_BYTES.inc(len(data), direction="write")
        return written

    def _write_if(self, name: str, data: bytes, condition: dict[str, str], key: str) -> bool:
        """Write an object if `condition` (headers) holds; whether it did.

        The public `Minio.put_object` has no conditions (minio 7.2.20); this is the only private
        call of the client, and `tests/storage/test_s3.py` holds its signature.
        """
        writer = uuid.uuid4().hex
        headers: dict[str, Any] = {SHA256: hashlib.sha256(data).hexdigest(), WRITER: writer}
        if tags := self._tags(key):
            headers["x-amz-tagging"] = urlencode(tags)
        try:
            self.client._put_object(self.bucket, name, data, headers | condition)
        except S3Error as error:
            if is_absent(error):  # the object whose tag was given is gone
                return False
            if not is_lost_condition(error):
                raise
            # The client repeats requests, so this one may have met its own first try.
            found = self._stat(key)
            return found is not None and (found.metadata or {}).get(WRITER) == writer
        return True

    def keys(self, prefix: str = "") -> Iterator[str]:
        if prefix and self._stat(prefix) is not None:
            yield prefix
            return
        for found in self._objects(prefix):
            yield self._key(found)

    def tags(self, prefix: str) -> dict[str, str]:
        """Entity tags of the objects at or below `prefix`, by key."""
        own = self._stat(prefix)
        found = [own] if own is not None else self._objects(prefix)
        return {self._key(o): str(o.etag) for o in found}

    def sizes(self, prefix: str) -> dict[str, int]:
        return {self._key(o): int(o.size or 0) for o in self._objects(prefix)}

    def ages(self, prefix: str) -> dict[str, float]:
        return {self._key(o): o.last_modified.timestamp() for o in self._objects(prefix)}

    def entries(self, prefix: str) -> dict[str, tuple[str, float]]:
        found = self._objects(prefix)
        return {self._key(o): (str(o.etag), o.last_modified.timestamp()) for o in found}

    def describe(self, key: str) -> tuple[int, str]:
        found = self._stat(key)
        if found is None:
            raise KeyError(key)
        digest = (found.metadata or {}).get(SHA256)
        return int(found.size or 0), digest or file_digest(self.local(key))

    def digests(self, keys: Iterable[str], *, trust: bool = True) -> dict[str, str | None]:
        def digest(key: str) -> str | None:
            try:
                if not trust:
                    return self._stream_digest(key)
                path = self.local(key)
            except (KeyError, DamagedError):
                return None
            return file_digests([path])[path]

        keys = list(keys)
        with ThreadPoolExecutor(PARALLEL) as threads:
            return dict(zip(keys, threads.map(digest, keys), strict=True))

    def _stream_digest(self, key: str) -> str:
        """SHA-256 of an object's bytes, which are not kept. Raises KeyError."""

        def digest_of(response: Any) -> str:
            digest = hashlib.sha256()
            for block in response.stream(_BLOCK):
                digest.update(block)
            return digest.hexdigest()

        return self._request(key, digest_of)

    def move(self, prefix: str, target: str) -> None:
        """Copied inside the bucket: a move that was cut off leaves `prefix` whole, or `target`.

        What the server's disk has lost stays behind, and goes with `prefix`.
        """
        self.delete(target)
        with self._explained():
            for found in list(self._objects(prefix)):
                key = self._key(found)
                with suppress(DamagedError), self._reading(str(found.object_name)):
                    size, digest = self.describe(key)
                    self.client.copy_object(
                        self.bucket,
                        self._name(f"{target}{key.removeprefix(prefix)}"),
                        CopySource(self.bucket, str(found.object_name)),
                        metadata={SHA256: digest},
                        metadata_directive=REPLACE if size <= _MOST_COPIED else None,
                    )
        self.delete(prefix)

    def delete(self, key: str) -> None:
        gone = self._name(key)
        names = [str(found.object_name) for found in self._objects(key)]
        with self._explained():
            for name in (gone, *(name for name in names if name.endswith(f"/{MANIFEST}"))):
                self.client.remove_object(self.bucket, name)
            for error in self.client.remove_objects(self.bucket, map(DeleteObject, names)):
                raise InfrastructureError(f"{self.uri}/{key} could not be deleted: {error.message}")
        for tree in ("work", "mirror"):
            shutil.rmtree(self.cache / tree / gone, ignore_errors=True)
        for path, (name, *_) in list(self._sent.items()):
            if not gone or name == gone or name.startswith(f"{gone}/"):
                del self._sent[path]

    # Files: what a stage writes goes to the bucket, what it reads comes from there.

    def put(self, key: str, path: Path) -> None:
        self._put(key, path, IN_FLIGHT // PARALLEL)

    def _put(self, key: str, path: Path, parallel: int) -> None:
        """Upload a file in `parallel` parts at a time, unless it was put already and is the same."""
        name = self._name(key)
        known = self._sent.get(path)
        if known is not None and (known[0], known[2]) == (name, Identity.of(path)):
            return
        with self._explained():
            tag, identity = upload(self.client, self.bucket, name, path, self._tags(key), parallel)
        STORE_BYTES.inc(identity.size, direction="write")
        if path.is_relative_to(self.cache):
            self._sent[path] = (name, tag, identity)

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

    def local(self, key: str) -> Path:
        name = self._name(key)
        with self._mirror.lock(name), self._explained():
            found = self._stat(key)
            if found is not None:
                tag, written = str(found.etag), self.cache / "work" / name
                with suppress(FileNotFoundError):
                    if self._sent.get(written) == (name, tag, Identity.of(written)):
                        return written
                return self._mirror.file(name, tag)
            tags = self._entity_tags(key)
            work = f"{name}/{WORK}".lstrip("/")
            tags = {one: tag for one, tag in tags.items() if not one.startswith(work)}
            if not tags:
                raise KeyError(key)
            return self._mirror.tree(name, tags)

    def copies_here(self, key: str) -> list[Path]:
        name = self._name(key)
        return [self.cache / tree / name for tree in ("mirror", "work")]

    def place(self, prefix: str) -> Path:
        return self.cache / "work" / self._name(prefix)

    def restore(self, prefix: str) -> Path:
        with self._explained():
            work, tags = self.cache / "work", self._entity_tags(prefix)
            self._mirror.copy(self._name(prefix), tags, work)
        return self.local_root(prefix)

    # Requests.

    def _get(self, key: str, start: int = 0, length: int = 0) -> tuple[bytes, Mapping[str, str]]:
        """An object, or some bytes of it, and the headers. Raises KeyError."""
        return self._request(key, lambda found: (found.read(), found.headers), start, length)

    def _request(
        self, key: str, take: Callable[[Any], Taken], start: int = 0, length: int = 0
    ) -> Taken:
        """What `take` makes of the endpoint's response; again from the start if it breaks off.

        Args:
            key: of the object.
            take: reads the response.
            start: first byte that is asked for.
            length: bytes from there; 0: all.

        Raises:
            KeyError: there is no such object.
        """
        name = self._name(key)

        def get() -> Taken:
            with receiving(self.client, self.bucket, name, start, length) as response:
                return take(response)

        try:
            with self._explained(), self._reading(name):
                return retry(get)
        except S3Error as error:
            if is_absent(error):
                raise KeyError(key) from None
            raise

    def _stat(self, key: str) -> Any:
        """What the bucket says of an object; None if there is none."""
        name = self._name(key)
        if not name:
            return None
        try:
            with self._explained(), self._reading(name):
                return self.client.stat_object(self.bucket, name)
        except S3Error as error:
            if is_absent(error):
                return None
            raise

    def _objects(self, prefix: str, at_most: int | None = None) -> Iterator[Any]:
        """The objects below a prefix, sorted by name."""
        name = self._name(prefix)
        with self._explained():
            found = self.client.list_objects(
                self.bucket,
                f"{name}/" if name else None,
                recursive=True,
                extra_query_params={"max-keys": str(at_most)} if at_most else None,
            )
            yield from (o for o in found if not str(o.object_name).endswith(("/", ".tmp")))

    def _entity_tags(self, prefix: str) -> EntityTags:
        return {str(o.object_name): str(o.etag) for o in self._objects(prefix)}

    def _tags(self, key: str) -> Tags | None:
        """What marks an object below a stage's `work/` for the bucket's rules, if that is wanted."""
        return work_tags() if self.settings.tag_work and f"/{WORK}" in key else None

    def _name(self, key: str) -> str:
        """The object's name in the bucket."""
        if key.startswith("/") or "://" in key or ".." in PurePosixPath(key).parts:
            raise UserInputError(f"object key {key!r} leaves the store; use a relative path")
        return "/".join(part for part in (self.prefix, key.strip("/")) if part)

    def _key(self, found: Any) -> str:
        return str(found.object_name)[len(self.prefix) + 1 if self.prefix else 0 :]

    def _explained(self) -> AbstractContextManager[None]:
        return explain_errors(self.settings, self.bucket)

    @contextmanager
    def _reading(self, name: str) -> Iterator[None]:
        """Raise DamagedError where the endpoint fails because it has lost this object's bytes."""
        try:
            yield
        except Exception as error:
            if is_transient(error) and is_unreadable(self.settings, self.bucket, name):
                raise DamagedError(_damaged(f"s3://{self.bucket}/{name}")) from error
            raise


def work_tags() -> Tags:
    """The tag of objects below a stage's `work/`: rules can select by prefix and tag alone."""
    tags = Tags.new_object_tags()
    tags["pelican"] = "work"
    return tags


# Uploads: bytes and files to objects, their SHA-256 with them.


class _ChangedError(InfrastructureError):
    """A file changed while it was uploaded."""


class _SteadyFile(io.FileIO):
    """A file that must stay as it is: `read` raises _ChangedError once it has changed."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.identity = Identity.of(self.fileno())

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        if Identity.of(self.fileno()) != self.identity:
            raise _ChangedError(
                f"{self.name} changed while it was uploaded; stop what writes to it, then upload it"
                " again"
            )
        return data or b""


def upload(
    client: Minio, bucket: str, name: str, path: Path, tags: Tags | None, parallel: int
) -> tuple[str, Identity]:
    """Upload a file, with its SHA-256; no half object is ever seen.

    A file that fits a part is read once, and what was there then is sent. A larger one is read
    twice, so it must stay as it is meanwhile; if it changes, it is sent again from its start. One
    that the bucket has already is not sent, so an upload of many files that was cut off goes on with
    the first file that is missing. With tags it is always sent, because rules delete by age.

    Args:
        tags: of the object, for the bucket's rules.
        parallel: parts that are sent at a time; the client holds up to two more in memory.

    Returns:
        The object's entity tag, and the file as it was sent.

    Raises:
        InfrastructureError: the file changed each of three times, or could not be put together.
    """

    def try_once() -> tuple[str, Identity]:
        with _SteadyFile(path) as file:
            identity = file.identity
            if identity.size <= PART:
                return send(client, bucket, name, file.readall(), tags), identity
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            if tags is None and (tag := _find_same(client, bucket, name, identity.size, digest)):
                return tag, identity
            file.seek(0)
            made = client.put_object(
                bucket,
                name,
                file,
                identity.size,
                metadata={SHA256: digest},
                part_size=part_size(identity.size),
                num_parallel_uploads=parallel,
                tags=tags,
            )
        if not made.etag:  # S3 may say an error after a status of 200
            raise InfrastructureError(f"s3://{bucket}/{name} was not put together")
        return made.etag, identity

    return retry(try_once, is_worth_resending)


def _find_same(client: Minio, bucket: str, name: str, size: int, digest: str) -> str | None:
    """The entity tag of the object if it has this size and digest, else None."""
    try:
        found = client.stat_object(bucket, name)
    except S3Error as error:
        if is_absent(error):
            return None
        raise
    same = found.size == size and (found.metadata or {}).get(SHA256) == digest
    return found.etag if same else None


def is_worth_resending(error: BaseException) -> bool:
    """Not after an endpoint that doesn't answer: the client was patient with each request."""
    if isinstance(error, S3Error):
        return error.code == "NoSuchUpload" or is_transient(error)  # a bucket's rule ended it
    return isinstance(error, _ChangedError)


def part_size(size: int) -> int:
    """Bytes of a part of a file of `size` bytes: more than PART if there would be too many."""
    megabyte = 1 << 20
    return max(PART, -(-size // (_MOST_PARTS * megabyte)) * megabyte)


def send(client: Minio, bucket: str, name: str, data: bytes, tags: Tags | None) -> str:
    """Write an object in one part, with its SHA-256; returns its entity tag."""
    made = client.put_object(
        bucket,
        name,
        io.BytesIO(data),
        len(data),
        metadata={SHA256: hashlib.sha256(data).hexdigest()},
        part_size=max(PART, len(data)),
        tags=tags,
    )
    return str(made.etag)


# Downloads: ranges of an object in parallel, their digest taken in order while they arrive.


def download(client: Minio, bucket: str, name: str, target: Path) -> Object:
    """Write an object to `target`: under a temporary name, then compared, then renamed.

    All ranges are of one version: if the object is replaced meanwhile, the new one is fetched. The
    file is not synced to the disk; Mirror compares it again after the machine was started anew.

    Raises:
        DamagedError: the bytes don't have the digest that their writer noted, twice.
    """
    for left in target.parent.glob(f".{target.name}.*.tmp"):  # by a download that was killed
        with suppress(OSError), lock_file(left, wait_s=0) as lock:
            if lock is not None:
                left.unlink()
    reads = 0
    while True:
        try:
            return _download(client, bucket, name, target)
        except S3Error as error:
            if not is_lost_condition(error):
                raise
        except DamagedError:
            reads += 1
            if reads == _READS:
                raise


def _download(client: Minio, bucket: str, name: str, target: Path) -> Object:
    found = client.stat_object(bucket, name)
    size, noted = int(found.size or 0), (found.metadata or {}).get(SHA256)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
    with lock_file(temporary) as descriptor, ThreadPoolExecutor(RANGES) as threads:
        assert descriptor is not None
        starts, digest = range(0, size, PART), hashlib.sha256()
        ranges = [
            threads.submit(_fetch, client, found, descriptor, start, min(start + PART, size))
            for start in starts
        ]
        try:
            for start, one in zip(starts, ranges, strict=True):
                one.result()
                for at in range(start, min(start + PART, size), _BLOCK) if noted else ():
                    digest.update(os.pread(descriptor, _BLOCK, at))
            if noted and noted != digest.hexdigest():
                raise DamagedError(_damaged(f"s3://{bucket}/{name}"))
            temporary.replace(target)
            if noted:
                note_digest(target, noted, Identity.of(target))
        finally:
            threads.shutdown(cancel_futures=True)
            temporary.unlink(missing_ok=True)
    return found


def _damaged(uri: str) -> str:
    return f"{uri} is damaged in the store: its bytes are not those that were written"


def _fetch(client: Minio, found: Object, descriptor: int, start: int, stop: int) -> None:
    """Write bytes of an object to their place in a file; a retry goes on where it broke off."""
    at, condition = start, {"If-Match": f'"{found.etag}"'}

    def fetch_rest() -> None:
        nonlocal at
        bucket, name = found.bucket_name, str(found.object_name)
        headers = dict(condition)
        with receiving(client, bucket, name, at, stop - at, request_headers=headers) as response:
            for block in response.stream(_BLOCK):
                rest = memoryview(block)
                while rest:
                    written = os.pwrite(descriptor, rest, at)
                    at, rest = at + written, rest[written:]
            if at != stop:
                raise ConnectionError(f"{found.object_name} broke off at byte {at}")

    retry(fetch_rest)


class Mirror:
    """The files below a cache that mirror objects of one bucket.

    Several processes of a machine may share the folder. An object whose name leads out of it, which S3
    allows, is refused.
    """

    def __init__(
        self,
        cache: Path,
        bucket: str,
        client: Callable[[], Minio],
        reading: Callable[[str], AbstractContextManager[None]],
    ) -> None:
        self._cache, self._bucket, self._client = cache, bucket, client
        self._reading = reading  # what surrounds the download of an object

    def lock(self, name: str) -> AbstractContextManager[int | None]:
        """One process of this machine fetches; the others wait, and then find it there."""
        return lock_file(self._cache / "locks" / hashlib.sha256(name.encode()).hexdigest()[:24])

    def file(self, name: str, tag: str) -> Path:
        """The object that has this entity tag as a file."""
        target = resolve_below(self._cache / "mirror", name)
        mark = resolve_below(self._cache / "tags", name)
        known = _Mark.read(mark)
        if known is not None and known.tag == tag and known.holds(target):
            if known.boot != boot_id():
                replace(known, boot=boot_id()).write(mark)
            return target
        found = self._fetch(name, target)
        noted = (found.metadata or {}).get(SHA256)
        _Mark(str(found.etag), noted, boot_id(), Identity.of(target)).write(mark)
        return target

    def tree(self, name: str, tags: EntityTags) -> Path:
        """A folder with these objects and no other file."""
        root = (self._cache / "mirror").resolve()
        with ThreadPoolExecutor(PARALLEL) as threads:
            list(threads.map(self.file, tags, tags.values()))
        wanted = {root / one for one in tags}
        for path in (root / name).rglob("*"):
            if path.is_file() and path not in wanted and not path.name.endswith(".tmp"):
                path.unlink(missing_ok=True)
        return root / name

    def copy(self, name: str, tags: EntityTags, root: Path) -> None:
        """Fetch these objects below `root`, for whoever writes there: no part of the mirror."""
        shutil.rmtree(root / name, ignore_errors=True)
        with ThreadPoolExecutor(PARALLEL) as threads:
            list(threads.map(lambda one: self._fetch(one, resolve_below(root, one)), tags))

    def _fetch(self, name: str, target: Path) -> Object:
        if target.is_dir():
            shutil.rmtree(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        with self._reading(name):
            found = download(self._client(), self._bucket, name, target)
        STORE_BYTES.inc(int(found.size or 0), direction="read")
        return found


@dataclass(frozen=True)
class _Mark:
    """What is noted of a file of the mirror: its object's tag and digest, and the file as it was.

    A download is not synced to the disk, so a machine that breaks down may lose a part of the file.
    After another start of the machine, a file is trusted only once its digest was taken again.
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
        return self.boot == boot_id() or self.sha256 == file_digest(target)

    @classmethod
    def read(cls, path: Path) -> _Mark | None:
        try:
            found = parse_json(path.read_bytes())
            return cls(**{**found, "identity": Identity(**found["identity"])})
        except (OSError, ValueError, LookupError, TypeError):
            return None

    def write(self, path: Path) -> None:
        if path.is_dir():
            shutil.rmtree(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self)))
