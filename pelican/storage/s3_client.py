"""How to reach an S3 endpoint: settings, credentials, retries, and what its errors mean."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

import urllib3
from minio import Minio
from minio.credentials.credentials import Credentials
from minio.credentials.providers import (
    AWSConfigProvider,
    ChainedProvider,
    EnvAWSProvider,
    IamAwsProvider,
    Provider,
)
from minio.error import InvalidResponseError, S3Error, ServerError
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from pelican.base.endpoint import is_http
from pelican.base.metrics import STORE_ERRORS, STORE_RETRIES
from pelican.base.net import explain_refusal, find_refusal, make_tls_context
from pelican.config import env as environment
from pelican.errors import InfrastructureError, PelicanError, RefusedError, UserInputError

AWS = "https://s3.amazonaws.com"
CA = "S3_CA_BUNDLE"
PATIENCE_S = 90.0
_REGION = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?")
CONNECT_S, READ_S = 5.0, 60.0
_ABSENT = ("NoSuchKey", "NoSuchObject", "ResourceNotFound", "NoSuchVersion")
_DENIED = ("InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken")
_FULL = ("XMinioStorageFull", "XMinioAdminBucketQuotaExceeded", "QuotaExceeded")
_LOST_CONDITION = ("PreconditionFailed", "ConditionalRequestConflict")
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
    """Where S3 is and how to speak to it, by the variables of `docs/cluster.md`; no credentials."""

    endpoint: str
    region: str | None = None
    ca: str | None = None
    path_style: bool | None = None
    patience_s: float = PATIENCE_S
    tag_work: bool = False

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> S3Settings:
        """Raises UserInputError for a variable whose value can't be used."""
        env = environment.read_all() if environ is None else environ

        def first(*names: str) -> str | None:
            return next((env[name] for name in names if env.get(name)), None)

        names = ("S3_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
        variable = next((name for name in names if env.get(name)), names[0])
        endpoint = first(*names) or AWS
        parts = urlsplit(endpoint)
        if "@" in endpoint:  # first, because the other sentence shows the value
            raise UserInputError(
                f"{variable} holds a user or a password; take them out and set AWS_ACCESS_KEY_ID"
                " and AWS_SECRET_ACCESS_KEY"
            )
        if not is_http(endpoint) or parts.path.strip("/") or parts.query or parts.fragment:
            raise UserInputError(f"{variable}={endpoint!r} is not of the form http(s)://host:port")
        style = env.get("S3_PATH_STYLE") or "auto"
        if style not in ("auto", "on", "off"):
            raise UserInputError(f"S3_PATH_STYLE={style!r} is none of auto, on, off")
        tag = env.get("S3_TAG_WORK") or "off"
        if tag not in ("on", "off"):
            raise UserInputError(f"S3_TAG_WORK={tag!r} is neither on nor off")
        patience = env.get("S3_PATIENCE_S") or PATIENCE_S
        try:
            patience_s = float(patience)
        except ValueError:
            patience_s = math.nan
        if not 0 <= patience_s <= environment.MOST_S:
            raise UserInputError(
                f"S3_PATIENCE_S={patience!r} is not a number of seconds up to {environment.MOST_S:,.0f}"
            )
        region = first("AWS_REGION", "AWS_DEFAULT_REGION")
        if region and not _REGION.fullmatch(region):
            raise UserInputError(f"AWS_REGION={region!r} is no region, such as us-east-1")
        return cls(
            endpoint=endpoint.rstrip("/"),
            region=region,
            ca=first("S3_CA_BUNDLE", "AWS_CA_BUNDLE"),
            path_style={"auto": None, "on": True, "off": False}[style],
            patience_s=patience_s,
            tag_work=tag == "on",
        )

    def variables(self) -> dict[str, str]:
        """The same settings as variables for a pod, but the CA: it is a file of this machine."""
        found = {"S3_ENDPOINT_URL": self.endpoint, "S3_PATIENCE_S": f"{self.patience_s:g}"}
        if self.region:
            found["AWS_REGION"] = self.region
        if self.path_style is not None:
            found["S3_PATH_STYLE"] = "on" if self.path_style else "off"
        if self.tag_work:
            found["S3_TAG_WORK"] = "on"
        return found


def make_client(settings: S3Settings, *, patient: bool = True) -> Minio:
    """A client that tries every request, so each part of an upload, until its patience ends."""
    parts = urlsplit(settings.endpoint)
    # The waits are 0.5, 1, 2, 4, 8, 15, 15, … s, each up to 1 s longer by chance.
    tries = 3 + max(0, round((settings.patience_s - 3.5) / 15)) if patient else 0
    pool = urllib3.PoolManager(
        timeout=urllib3.Timeout(connect=CONNECT_S, read=READ_S),
        maxsize=32,
        ssl_context=make_tls_context(settings.ca, CA) if parts.scheme == "https" else None,
        retries=_Retry(
            total=tries,
            backoff_factor=0.5,
            backoff_max=15,
            backoff_jitter=1.0,
            status_forcelist=_TRANSIENT_STATUS if patient else (),  # else the error says its code
            allowed_methods=None,
            # MinIO asks for 60 s before each try, also where a disk has lost an object for good.
            respect_retry_after_header=False,
        ),
    )
    client = Minio(
        parts.netloc,
        secure=parts.scheme == "https",
        region=settings.region,
        credentials=_CleanProvider(),
        http_client=pool,
    )
    if settings.path_style is True:
        client.disable_virtual_style_endpoint()  # type: ignore[no-untyped-call]
    elif settings.path_style is False:
        client.enable_virtual_style_endpoint()  # type: ignore[no-untyped-call]
    return client


class _Retry(urllib3.Retry):
    """Retries of a request, but not after a refused certificate, which would be refused again."""

    def increment(self, *args: Any, **more: Any) -> Self:
        error = more.get("error")
        if error is not None and find_refusal(error) is not None:
            raise error
        return super().increment(*args, **more)


class _CleanProvider(Provider):
    """Credentials of the first source that has some, without the newline that files end with.

    A mounted Secret (S3_CREDENTIALS_DIR, one file a key) is read at each request, because it may be
    rotated; then come the environment, AWS's file, and a pod's identity token.
    """

    def __init__(self) -> None:
        providers: list[Provider] = [EnvAWSProvider(), AWSConfigProvider()]
        if environment.read("AWS_WEB_IDENTITY_TOKEN_FILE"):
            providers.append(IamAwsProvider())
        self._others = ChainedProvider(providers)

    def retrieve(self) -> Credentials:
        found = self._mounted() or self._others.retrieve()
        token = found.session_token
        return replace(
            found,
            access_key=found.access_key.strip(),
            secret_key=found.secret_key.strip(),
            session_token=token.strip() if token else token,
        )

    def _mounted(self) -> Credentials | None:
        folder = environment.read("S3_CREDENTIALS_DIR")
        if not folder:
            return None
        try:
            return Credentials(
                (Path(folder) / "AWS_ACCESS_KEY_ID").read_text(),
                (Path(folder) / "AWS_SECRET_ACCESS_KEY").read_text(),
            )
        except (OSError, ValueError):
            return None


def is_absent(error: BaseException) -> bool:
    """Whether there is no such object."""
    return isinstance(error, S3Error) and error.code in _ABSENT


def is_lost_condition(error: BaseException) -> bool:
    """Whether a conditional request failed because the object has changed."""
    return isinstance(error, S3Error) and error.code in _LOST_CONDITION


def is_transient(error: BaseException) -> bool:
    """Whether trying again may help."""
    if isinstance(error, S3Error):
        return error.code in _TRANSIENT_CODES
    if isinstance(error, ServerError):
        return error.status_code in _TRANSIENT_STATUS
    if find_refusal(error) is not None:
        return False
    kinds = (urllib3.exceptions.HTTPError, InvalidResponseError, ConnectionError, TimeoutError)
    return isinstance(error, kinds)


def retry(
    operation: Callable[[], T], worth_it: Callable[[BaseException], bool] = is_transient
) -> T:
    """The result of `operation`, tried three times if its error is `worth_it`.

    The client repeats requests that fail, until its patience ends; this is for what it can't see, for
    example a body that breaks off on its way.
    """

    def unseen(error: BaseException) -> bool:
        return worth_it(error) and not isinstance(error, urllib3.exceptions.MaxRetryError)

    retrying = Retrying(
        retry=retry_if_exception(unseen),
        stop=stop_after_attempt(3),
        wait=wait_random_exponential(0.5, max=5.0),
        before_sleep=lambda _: STORE_RETRIES.inc(),
        reraise=True,
    )
    return retrying(operation)


@contextmanager
def receiving(
    client: Minio, bucket: str, name: str, start: int = 0, length: int = 0, **more: Any
) -> Iterator[Any]:
    """The endpoint's response to a request for an object, closed at the end.

    Args:
        client: sends it.
        bucket: of the object.
        name: of the object.
        start: first byte that is asked for.
        length: bytes from there; 0: all.
        more: of `Minio.get_object`.
    """
    response = client.get_object(bucket, name, start, length, **more)
    try:
        yield response
    finally:
        response.close()
        response.release_conn()


def is_unreadable(settings: S3Settings, bucket: str, name: str) -> bool:
    """Whether the endpoint answers, and finds that its disk has lost the bytes of this one object.

    MinIO keeps a checksum of every block. Where it does not hold, MinIO says so by the code that it
    also has for drives that are away, but then it can't tell what it knows of the object either; in
    the middle of an object it breaks off, again and again at the same byte. Of an object whose own
    record is damaged it names the checksum.
    """
    client, at = make_client(settings, patient=False), 0
    stuck = 0  # requests in a row that brought no byte
    while stuck < 2:
        before = at
        try:
            with receiving(client, bucket, name, at) as response:
                for block in response.stream(1 << 20):
                    at += len(block)
            return False
        except S3Error as error:
            if error.code == "InternalError" and "CRC mismatch" in str(error):
                return True
            return error.code == "SlowDownRead" and _has_record(client, bucket, name)
        except urllib3.exceptions.ProtocolError:
            stuck = 0 if at > before else stuck + 1
        except (urllib3.exceptions.HTTPError, ServerError, InvalidResponseError):
            return False
    return _has_record(client, bucket, name)


def _has_record(client: Minio, bucket: str, name: str) -> bool:
    try:
        client.stat_object(bucket, name)
    except (S3Error, ServerError, InvalidResponseError, urllib3.exceptions.HTTPError):
        return False
    return True


@contextmanager
def explain_errors(settings: S3Settings, bucket: str) -> Iterator[None]:
    """Turn errors of the endpoint into one sentence.

    Absent objects and lost conditions pass as they are, because callers answer them.

    Raises:
        UserInputError: the settings, the credentials or the bucket's name are wrong.
        InfrastructureError: the endpoint does not answer.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, PelicanError) or is_absent(error) or is_lost_condition(error):
            raise
        STORE_ERRORS.inc()
        explained = _explain(error, settings, bucket)
        if explained is None:
            raise
        raise explained from error


def _explain(error: Exception, settings: S3Settings, bucket: str) -> PelicanError | None:
    at = settings.endpoint
    if isinstance(error, S3Error):
        if error.code == "NoSuchBucket":
            return no_bucket(settings, bucket)
        if error.code in _FULL:
            return InfrastructureError(
                f"the store at {at} has no room left in bucket {bucket!r} ({error.code}); free some"
                " space, then the same command continues"
            )
        if error.code == "AccessDenied":
            return RefusedError(
                f"{at} refuses access to bucket {bucket!r} (AccessDenied); give these credentials"
                " the right, or take others"
            )
        if error.code == "RequestTimeTooSkewed":
            return InfrastructureError(
                f"{at} refuses requests because this machine's clock is too far from its own; set the"
                " clock (NTP), then the same command continues"
            )
        if error.code in _DENIED:
            return UserInputError(
                f"{at} refuses access to bucket {bucket!r} ({error.code}); check the credentials"
            )
    if (tls := find_refusal(error)) is not None:
        return explain_refusal(tls, at, settings.ca, CA)
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


def no_bucket(settings: S3Settings, bucket: str) -> UserInputError:
    """The sentence for a bucket that isn't there."""
    return UserInputError(
        f"there is no bucket {bucket!r} at {settings.endpoint}; create it, or change the store"
    )
