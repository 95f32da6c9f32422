"""Who may send events: a bearer token, or a signature after the Standard Webhooks specification."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import SecretStr

from pelican.signature import ID, SIGNATURE, TIMESTAMP, sign

_MAX_HEADER = 1024


class RefusedError(Exception):
    """A request that is not let in; `reason` is a short word for the counter."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status, self.reason, self.message = status, reason, message


@dataclass(frozen=True)
class Sender:
    """An authenticated request; `request_id` only if it was signed."""

    kind: str
    request_id: str | None = None


def authenticate(
    headers: Mapping[str, str],
    body: bytes,
    tokens: Sequence[SecretStr],
    secrets: Sequence[SecretStr],
    tolerance_s: float,
    now: float,
) -> Sender:
    """Raises RefusedError (401). Every token and key is compared, in constant time."""
    if SIGNATURE in headers:
        return _signed(headers, body, secrets, tolerance_s, now)
    scheme, _, given = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not given:
        raise RefusedError(401, "unsigned", "a bearer token or a signature is needed")
    matches = [_equal(given.strip().encode(), token) for token in tokens]
    if not any(matches):
        raise RefusedError(401, "wrong_token", "the token is not known")
    return Sender("bearer")


def _signed(
    headers: Mapping[str, str],
    body: bytes,
    secrets: Sequence[SecretStr],
    tolerance_s: float,
    now: float,
) -> Sender:
    request_id, stamp = headers.get(ID, ""), headers.get(TIMESTAMP, "")
    given = headers[SIGNATURE]
    if not request_id or max(map(len, (request_id, stamp, given))) > _MAX_HEADER:
        raise RefusedError(401, "malformed_signature", f"{ID} is missing or a header is too long")
    if not (stamp.isascii() and stamp.isdecimal()) or len(stamp) > 15:
        raise RefusedError(401, "malformed_signature", f"{TIMESTAMP} is not a number of seconds")
    made = [sign(secret.get_secret_value(), request_id, int(stamp), body) for secret in secrets]
    parts = given.split()[:8]
    matches = [
        hmac.compare_digest(one.encode(), part.encode("utf-8", "replace"))
        for one in made
        for part in parts
    ]
    if not any(matches):
        raise RefusedError(401, "wrong_signature", "the signature does not fit the request")
    if abs(now - int(stamp)) > tolerance_s:
        raise RefusedError(401, "stale", f"{TIMESTAMP} is more than {tolerance_s:g} s off")
    return Sender("signature", request_id)


def _equal(given: bytes, token: SecretStr) -> bool:
    """Compared by digest, so that the time does not tell the length either."""
    wanted = token.get_secret_value().encode()
    return hmac.compare_digest(hashlib.sha256(given).digest(), hashlib.sha256(wanted).digest())
