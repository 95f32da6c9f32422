"""The store in S3: objects, uploads, downloads to a mirror on disk, lifecycle rules."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import threading
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import cache, cached_property
from pathlib import Path, PurePosixPath
from typing import Any, Self, TypeVar, cast
from urllib.parse import urlencode, urlsplit

import urllib3
from minio import Minio
from minio.commonconfig import ENABLED, AndOperator, Filter, Tags
from minio.credentials.providers import (
    AWSConfigProvider,
    ChainedProvider,
    EnvAWSProvider,
    IamAwsProvider,
    Provider,
    StaticProvider,
)
from minio.datatypes import Part
from minio.deleteobjects import DeleteObject
from minio.error import InvalidResponseError, S3Error, ServerError
from minio.lifecycleconfig import AbortIncompleteMultipartUpload, Expiration, LifecycleConfig, Rule
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from pelican.base.metrics import STORE_BYTES, STORE_ERRORS, STORE_RETRIES
from pelican.base.net import refused, sentence, trusting
from pelican.config import env as places
from pelican.errors import InfrastructureError, PelicanError, UserInputError
from pelican.storage.manifests import file_digest
from pelican.storage.store import WORK, ObjectStore

# Whether a file is still the one that it was, without reading it.


@dataclass(frozen=True)
class Identity:
    """What changes when a file does: bytes, time of change, inode."""

    size: int
    mtime_ns: int
    inode: int

    @classmethod
    def of(cls, path: Path | int) -> Identity:
        """Of a path or a descriptor."""
        stat = os.stat(path)
        return cls(stat.st_size, stat.st_mtime_ns, stat.st_ino)


@cache
def boot() -> str:
    """Since when this machine's memory holds what was written but not yet brought to the disk.

    Where the kernel does not say, every process is a start of its own.
    """
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return uuid.uuid4().hex


# Rules by which a bucket deletes by itself what no manifest of a store refers to.

UPLOAD_DAYS = 3  # no upload takes that long


def rules_of(store: S3Store, days: int) -> list[Rule]:
    """The rules of this store, beside which those of other prefixes stay."""
    below = f"{store.prefix}/" if store.prefix else ""
    own = _own(store)
    rules = [
        Rule(
            ENABLED,
            rule_id=f"{own}uploads",
            rule_filter=Filter(prefix=below),
            abort_incomplete_multipart_upload=AbortIncompleteMultipartUpload(UPLOAD_DAYS),
            # MinIO clears uploads by itself, and takes no rule that does only that.
            expiration=Expiration(expired_object_delete_marker=True),
        ),
        Rule(
            ENABLED,
            rule_id=f"{own}cache",
            rule_filter=Filter(prefix=f"{below}cache/"),
            expiration=Expiration(days=days),
        ),
    ]
    if store.settings.tag_work:
        rules.append(
            Rule(
                ENABLED,
                rule_id=f"{own}work",
                rule_filter=Filter(and_operator=AndOperator(prefix=below, tags=work_tags())),
                expiration=Expiration(days=days),
            )
        )
    return rules


def set_rules(store: ObjectStore, days: int) -> list[Rule]:
    """Replace this store's rules of its bucket; others stay. Returns what now holds for it.

    Raises UserInputError if the store is a folder, or the endpoint knows no such rules.
    """
    from minio.error import S3Error

    if not isinstance(store, S3Store):
        raise UserInputError(f"the store {store.uri} is a folder; `pelican gc` cleans it")
    if days < 1:
        raise UserInputError(f"--days {days} is less than a day, which no rule can say")
    client, own = store.client, _own(store)
    made = rules_of(store, days)
    with told(store.settings, store.bucket):
        try:
            before = client.get_bucket_lifecycle(store.bucket)
            others = [r for r in (before.rules if before else []) if not _starts(r, own)]
            client.set_bucket_lifecycle(store.bucket, LifecycleConfig([*others, *made]))
            after = client.get_bucket_lifecycle(store.bucket)
        except S3Error as error:
            if error.code not in ("NotImplemented", "MethodNotAllowed", "MalformedXML"):
                raise
            raise UserInputError(
                f"{store.settings.endpoint} takes no such lifecycle rules ({error.code});"
                " run `pelican gc` now and then instead"
            ) from None
    return [rule for rule in (after.rules if after else []) if _starts(rule, own)]


def meaning(rule: Rule) -> str:
    """A rule as one line."""
    if rule.expiration is None or rule.expiration.days is None:
        return f"uploads that were broken off: deleted after {UPLOAD_DAYS} days"
    what = "work/ of stages, with claims" if is_of_work(rule) else "cache/"
    return f"{what}: deleted after {rule.expiration.days} days"


def is_of_work(rule: Rule) -> bool:
    return (rule.rule_id or "").endswith("-work")


def _own(store: S3Store) -> str:
    """How the identifiers of this store's rules begin: several stores may share a bucket."""
    return f"pelican-{hashlib.sha256(store.prefix.encode()).hexdigest()[:8]}-"


def _starts(rule: Rule, own: str) -> bool:
    return (rule.rule_id or "").startswith(own)


# What of a bucket lies on this machine: files below `mirror/`, fetched again when their tag changes.

PARALLEL = 4  # files on their way at a time
EntityTags = Mapping[str, str]  # an object's name -> its entity tag


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

    def tree(self, name: str, tags: EntityTags) -> Path:
        """A folder with these objects and no other file."""
        root = self._cache / "mirror"
        with ThreadPoolExecutor(PARALLEL) as threads:
            list(threads.map(lambda one: self.file(one, tags[one]), tags))
        wanted = {root / one for one in tags}
        for path in (root / name).rglob("*"):
            if path.is_file() and path not in wanted and not path.name.endswith(".tmp"):
                path.unlink(missing_ok=True)
        return root / name

    def copy(self, name: str, tags: EntityTags, root: Path) -> None:
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


# How to reach an S3 endpoint: settings, credentials, retries, and what its errors mean.

AWS = "https://s3.amazonaws.com"
CA = "S3_CA_BUNDLE"
PATIENCE_S = 90.0
CONNECT_S, READ_S = 5.0, 60.0
_ABSENT = ("NoSuchKey", "NoSuchObject", "ResourceNotFound", "NoSuchVersion")
_DENIED = ("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken")
_TRANSIENT_CODES = (
    "BadDigest",  # a body was damaged on its way
    "InternalError",
    "OperationAborted",
    "RequestTimeout",
    "ServiceUnavailable",
    "SlowDown",
    "SlowDownRead",
    "SlowDownWrite",
    "XAmzContentSHA256Mismatch",
    "XMinioServerNotInitialized",
)
_TRANSIENT_STATUS = (429, 500, 502, 503, 504)
T = TypeVar("T")


@dataclass(frozen=True)
class S3Settings:
    """Where S3 is and how it is spoken to; `docs/settings.md` has the variables. No credentials."""

    endpoint: str
    region: str | None = None
    ca: str | None = None
    path_style: bool | None = None
    patience_s: float = PATIENCE_S
    tag_work: bool = False

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> S3Settings:
        """Raises UserInputError for a value that is none."""
        env = places.read_all() if environ is None else environ

        def first(*names: str) -> str | None:
            return next((env[name] for name in names if env.get(name)), None)

        endpoint = first("S3_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL") or AWS
        parts = urlsplit(endpoint)
        if parts.scheme not in ("http", "https") or not parts.netloc or parts.path.strip("/"):
            raise UserInputError(
                f"S3_ENDPOINT_URL={endpoint!r} is not of the form http(s)://host:port"
            )
        if "@" in parts.netloc:
            raise UserInputError(
                "S3_ENDPOINT_URL holds a user or password; give AWS_ACCESS_KEY_ID instead"
            )
        style = env.get("S3_PATH_STYLE") or "auto"
        if style not in ("auto", "on", "off"):
            raise UserInputError(f"S3_PATH_STYLE={style!r} is none of auto, on, off")
        tag = env.get("S3_TAG_WORK") or "off"
        if tag not in ("on", "off"):
            raise UserInputError(f"S3_TAG_WORK={tag!r} is neither on nor off")
        return cls(
            endpoint=endpoint.rstrip("/"),
            region=first("AWS_REGION", "AWS_DEFAULT_REGION"),
            ca=first("S3_CA_BUNDLE", "AWS_CA_BUNDLE"),
            path_style={"auto": None, "on": True, "off": False}[style],
            patience_s=_seconds(env.get("S3_PATIENCE_S")),
            tag_work=tag == "on",
        )

    def variables(self) -> dict[str, str]:
        """The environment that says the same elsewhere; the CA is a file, so it does not travel."""
        found = {"S3_ENDPOINT_URL": self.endpoint, "S3_PATIENCE_S": f"{self.patience_s:g}"}
        if self.region:
            found["AWS_REGION"] = self.region
        if self.path_style is not None:
            found["S3_PATH_STYLE"] = "on" if self.path_style else "off"
        if self.tag_work:
            found["S3_TAG_WORK"] = "on"
        return found


def _seconds(given: str | None) -> float:
    try:
        return float(given or PATIENCE_S)
    except ValueError:
        raise UserInputError(f"S3_PATIENCE_S={given!r} is not a number of seconds") from None


def make_client(settings: S3Settings, *, patient: bool = True) -> Minio:
    """A client whose every request, so each part of an upload, is tried until patience ends."""
    parts = urlsplit(settings.endpoint)
    # 0.5, 1, 2, 4, 8, 15, 15, … s, each with up to 1 s more: so many fit into the patience.
    tries = 3 + max(0, round((settings.patience_s - 3.5) / 15)) if patient else 0
    pool = urllib3.PoolManager(
        timeout=urllib3.Timeout(connect=CONNECT_S, read=READ_S),
        maxsize=32,
        ssl_context=trusting(settings.ca, CA) if parts.scheme == "https" else None,
        retries=_Retry(
            total=tries,
            backoff_factor=0.5,
            backoff_max=15,
            backoff_jitter=1.0,
            status_forcelist=_TRANSIENT_STATUS,
            allowed_methods=None,
        ),
    )
    client = Minio(
        parts.netloc,
        secure=parts.scheme == "https",
        region=settings.region,
        credentials=_credentials(),
        http_client=pool,
    )
    if settings.path_style is True:
        client.disable_virtual_style_endpoint()  # type: ignore[no-untyped-call]
    elif settings.path_style is False:
        client.enable_virtual_style_endpoint()  # type: ignore[no-untyped-call]
    return client


class _Retry(urllib3.Retry):
    """A certificate that was refused will be again."""

    def increment(self, *args: Any, **more: Any) -> Self:
        error = more.get("error")
        if error is not None and refused(error) is not None:
            raise error
        return super().increment(*args, **more)


def _credentials() -> Provider:
    """From a mounted Secret, the environment, a file, or a pod's identity token; asked lazily."""
    found: list[Provider] = []
    folder = places.read("S3_CREDENTIALS_DIR")
    if folder:
        found.append(_SecretFolder(Path(folder)))
    found += [EnvAWSProvider(), AWSConfigProvider()]
    if places.read("AWS_WEB_IDENTITY_TOKEN_FILE"):
        found.append(IamAwsProvider())
    return ChainedProvider(found)


class _SecretFolder(Provider):
    """A mounted Secret: one file a key. Read at each use, so that a rotated Secret is seen."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def retrieve(self):  # type: ignore[no-untyped-def] # Credentials is not exported
        try:
            key, secret = (
                (self._folder / name).read_text().strip()
                for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
            )
        except OSError as error:
            raise ValueError(f"S3_CREDENTIALS_DIR: {error}") from None
        return StaticProvider(key, secret).retrieve()


def is_absent(error: Exception) -> bool:
    return isinstance(error, S3Error) and error.code in _ABSENT


def lost_condition(error: Exception) -> bool:
    """Whether a conditional request was refused: the object is not as it was said to be."""
    return isinstance(error, S3Error) and error.code in (
        "PreconditionFailed",
        "ConditionalRequestConflict",
    )


def is_transient(error: BaseException) -> bool:
    """Whether trying again may help."""
    if isinstance(error, S3Error):
        return error.code in _TRANSIENT_CODES
    if isinstance(error, ServerError):
        return error.status_code in _TRANSIENT_STATUS
    if refused(error) is not None:
        return False
    kinds = (urllib3.exceptions.HTTPError, InvalidResponseError, ConnectionError, TimeoutError)
    return isinstance(error, kinds)


@contextmanager
def told(settings: S3Settings, bucket: str) -> Iterator[None]:
    """Errors of the endpoint as one sentence; conditions and absent objects pass as they are."""
    try:
        yield
    except Exception as error:
        if isinstance(error, PelicanError) or is_absent(error) or lost_condition(error):
            raise
        meant = _meaning(error, settings, bucket)
        STORE_ERRORS.inc()
        if meant is None:
            raise
        raise meant from error


def _meaning(error: Exception, settings: S3Settings, bucket: str) -> PelicanError | None:
    at = settings.endpoint
    if isinstance(error, S3Error):
        if error.code == "NoSuchBucket":
            return UserInputError(
                f"there is no bucket {bucket!r} at {at}; create it, or change the store"
            )
        if error.code in _DENIED:
            return UserInputError(
                f"{at} refuses access to bucket {bucket!r} ({error.code}); check the credentials"
            )
    if (tls := refused(error)) is not None:
        return sentence(tls, at, settings.ca, CA)
    if isinstance(error, InvalidResponseError) and "HTTPS server" in str(error):
        return UserInputError(f"{at} speaks TLS; set S3_ENDPOINT_URL=https://…")
    if is_transient(error):
        cause = getattr(error, "reason", None) or error
        return InfrastructureError(f"the store at {at} does not answer: {cause}")
    if isinstance(error, ValueError) and "credentials" in str(error):
        return UserInputError(
            f"there are no credentials for {at}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY,"
            " a credentials file, or S3_CREDENTIALS_DIR"
        )
    if isinstance(error, (S3Error, urllib3.exceptions.HTTPError)):
        return UserInputError(f"{at}, bucket {bucket!r}: {error}")
    return None


def again(operation: Callable[[], T]) -> T:
    """`operation`, up to three times where that may help: for bodies that broke off on the way."""
    retrying = Retrying(
        retry=retry_if_exception(is_transient),
        stop=stop_after_attempt(3),
        wait=wait_random_exponential(0.5, max=5.0),
        before_sleep=lambda _: STORE_RETRIES.inc(),
        reraise=True,
    )
    return retrying(operation)


def work_tags() -> Tags:
    """What objects below a stage's `work/` are known by: rules know prefixes and tags only."""
    tags = Tags.new_object_tags()
    tags["pelican"] = "work"
    return tags


# The objects of an S3 bucket: reading, conditional writing, listing, deleting. No local files.

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


# A bucket of S3 as a store: `s3://bucket/prefix`, with a folder of this machine as its cache.
#
# What `local` gives lies below `mirror/` in the cache and is fetched again when the object's tag has
# changed; what a stage writes lies below `work/` until `put` or `upload` brings it to the bucket.

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


# Large objects as files: ranges in parallel, their digest taken on the way, memory of a few blocks.

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


# Files as objects: parts in parallel, their digest beforehand, continued where one broke off.

_TRIES = 3  # with a file that changes, or an upload that somebody ends
_MOST_PARTS = 10_000  # of one object, by S3
_MB = 1 << 20


@dataclass(frozen=True)
class Sent:
    """A file that became an object: what the file was, and the object's entity tag."""

    identity: Identity
    tag: str


@dataclass(frozen=True)
class Uploader:
    """Sends files to one bucket. `notes`: a folder where it notes parts that have been sent.

    Another process of this machine, sent the same file again after a crash, sends the other parts.
    """

    client: Minio
    bucket: str
    notes: Path

    def send(self, path: Path, name: str, headers: Mapping[str, str], parallel: int) -> Sent:
        """Upload a file, its SHA-256 with it.

        Holds `parallel` parts in memory. One that fits a part is read once: what was there then is
        sent. A larger one must stay as it is meanwhile: if it does not it is sent again, and
        InfrastructureError is raised if that does not help. No half object is ever seen.
        """
        for _ in range(_TRIES):
            with path.open("rb", buffering=0) as file:
                before = Identity.of(file.fileno())
                if before.size <= PART:
                    tag = self._whole(file.read(), name, headers)
                else:
                    digest = hashlib.file_digest(file, "sha256").hexdigest()
                    parts = _Multipart(self, name, {**headers, SHA256: digest}, before)
                    try:
                        tag = parts.send(file.fileno(), parallel)
                    except _Other:
                        continue
            return Sent(before, tag)
        raise InfrastructureError(
            f"{path} did not stay as it was while it was uploaded, {_TRIES} times;"
            " upload it when nothing writes to it"
        )

    def _whole(self, data: bytes, name: str, headers: Mapping[str, str]) -> str:
        noted = {**headers, SHA256: hashlib.sha256(data).hexdigest()}
        done = again(lambda: self.client._put_object(self.bucket, name, data, dict(noted)))
        return str(done.etag)


class _Other(Exception):
    """It is not the file, or not the upload, any more that it was."""


class _Multipart:
    """One file in parts. Its note: a line of what is sent, then one for each part's number and tag."""

    def __init__(
        self, uploader: Uploader, name: str, headers: dict[str, str], identity: Identity
    ) -> None:
        self._client, self._bucket = uploader.client, uploader.bucket
        self._name, self._headers, self._identity = name, headers, identity
        size = identity.size
        self._part = max(PART, -(-size // (_MOST_PARTS * _MB)) * _MB)
        self._count = -(-size // self._part)
        self._what = {"name": name, "headers": headers, "size": size, "part": self._part}
        self._note = uploader.notes / hashlib.sha256(name.encode()).hexdigest()[:24]
        self._noting = threading.Lock()

    def send(self, descriptor: int, parallel: int) -> str:
        """The entity tag. Raises _Other, and no object is there, if the file changed meanwhile."""
        upload, tags = self._resume() or (self._begin(), {})
        missing = deque(n for n in range(1, self._count + 1) if n not in tags)

        def work() -> None:
            buffer = memoryview(bytearray(self._part))
            try:
                while number := _next(missing):
                    tags[number] = self._put(upload, number, self._read(descriptor, buffer, number))
            except BaseException:
                missing.clear()  # the others end too
                raise

        try:
            with ThreadPoolExecutor(parallel) as threads:
                for worker in [threads.submit(work) for _ in range(min(parallel, len(missing)))]:
                    worker.result()
            if Identity.of(descriptor) != self._identity:
                raise _Other
            return self._complete(upload, tags)
        except _Other:
            self._abort(upload)
            raise
        except S3Error as error:
            if error.code != "NoSuchUpload":
                raise
            self._note.unlink(missing_ok=True)
            raise _Other from None  # somebody ended it: a bucket's rule, or another process

    def _read(self, descriptor: int, buffer: memoryview, number: int) -> bytes:
        at, read = (number - 1) * self._part, 0
        length = min(self._part, self._identity.size - at)
        while read < length:
            more = os.preadv(descriptor, [buffer[read:length]], at + read)
            if not more:
                raise _Other
            read += more
        return cast(bytes, buffer[:length])  # the client takes any buffer: no copy of each part

    def _begin(self) -> str:
        self._note.parent.mkdir(parents=True, exist_ok=True)
        upload = self._client._create_multipart_upload(
            self._bucket, self._name, dict(self._headers)
        )
        self._note.write_text(json.dumps({**self._what, "upload": upload}) + "\n")
        return upload

    def _put(self, upload: str, number: int, part: bytes) -> str:
        tag = again(
            lambda: self._client._upload_part(self._bucket, self._name, part, None, upload, number)
        )
        with self._noting, self._note.open("a") as file:
            file.write(json.dumps({"number": number, "tag": tag}) + "\n")
        return tag

    def _complete(self, upload: str, tags: Mapping[int, str]) -> str:
        parts = [Part(number, tags[number]) for number in sorted(tags)]
        done = again(
            lambda: self._client._complete_multipart_upload(self._bucket, self._name, upload, parts)
        )
        if not done.etag:  # S3 may say an error after a status of 200
            raise InfrastructureError(f"s3://{self._bucket}/{self._name} was not put together")
        self._note.unlink(missing_ok=True)
        return done.etag.strip('"')

    def _abort(self, upload: str) -> None:
        self._note.unlink(missing_ok=True)
        with suppress(S3Error):  # it may be gone; the bucket's rules clear what is left
            self._client._abort_multipart_upload(self._bucket, self._name, upload)

    def _resume(self) -> tuple[str, dict[int, str]] | None:
        """An upload of the same content that broke off, and its parts that the store still has."""
        upload, noted = self._noted()
        if upload is None:
            return None
        try:
            there = self._there(upload)
        except S3Error as error:
            if error.code != "NoSuchUpload":
                raise
            return None
        return upload, {number: tag for number, tag in noted.items() if there.get(number) == tag}

    def _noted(self) -> tuple[str | None, dict[int, str]]:
        """What the note says. An upload of other content is ended."""
        try:
            first, *lines = self._note.read_text().splitlines()
            what = json.loads(first)
            upload = str(what.pop("upload"))
        except (OSError, ValueError, KeyError):
            return None, {}
        if what != self._what:
            self._abort(upload)
            return None, {}
        noted = {}
        for line in lines:
            with suppress(ValueError, KeyError):  # the last one may be torn
                part = json.loads(line)
                noted[int(part["number"])] = str(part["tag"])
        return upload, noted

    def _there(self, upload: str) -> dict[int, str]:
        """Tags of the parts that the store has."""
        found: dict[int, str] = {}
        after: str | None = None
        while True:
            page = self._client._list_parts(
                self._bucket, self._name, upload, part_number_marker=after
            )
            found |= {part.part_number: part.etag.strip('"') for part in page.parts}
            if not page.is_truncated:
                return found
            after = str(page.next_part_number_marker)


def _next(missing: deque[int]) -> int | None:
    try:
        return missing.popleft()
    except IndexError:
        return None
