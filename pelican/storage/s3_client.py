"""How to reach an S3 endpoint: settings, credentials, retries, and what its errors mean."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

import urllib3
from minio import Minio
from minio.commonconfig import Tags
from minio.credentials.providers import (
    AWSConfigProvider,
    ChainedProvider,
    EnvAWSProvider,
    IamAwsProvider,
    Provider,
    StaticProvider,
)
from minio.error import InvalidResponseError, S3Error, ServerError
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from pelican.errors import InfrastructureError, PelicanError, UserInputError
from pelican.metrics.catalogue import STORE_ERRORS, STORE_RETRIES
from pelican.tls import refused, sentence, trusting

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
    """Where S3 is and how it is spoken to; `docs/cluster.md` has the variables. No credentials."""

    endpoint: str
    region: str | None = None
    ca: str | None = None
    path_style: bool | None = None
    patience_s: float = PATIENCE_S
    tag_work: bool = False

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> S3Settings:
        """Raises UserInputError for a value that is none."""
        env = os.environ if environ is None else environ

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
    folder = os.environ.get("S3_CREDENTIALS_DIR")
    if folder:
        found.append(_SecretFolder(Path(folder)))
    found += [EnvAWSProvider(), AWSConfigProvider()]
    if os.environ.get("AWS_WEB_IDENTITY_TOKEN_FILE"):
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
