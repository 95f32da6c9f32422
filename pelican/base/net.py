"""Certificates of a CA of one's own, and signed requests."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import ssl

import certifi

from pelican.errors import UserInputError

# Signed requests after the Standard Webhooks specification: those that come in and those we send.
#
# A signed request has `webhook-id`, `webhook-timestamp` (seconds) and `webhook-signature`, a list of
# `v1,<base64 of HMAC-SHA256 over "id.timestamp.body">`.

ID, TIMESTAMP, SIGNATURE = "webhook-id", "webhook-timestamp", "webhook-signature"


def sign(secret: str, request_id: str, timestamp: int, body: bytes) -> str:
    """`v1,<base64>`. A secret `whsec_<base64>` stands for its bytes, another for its text."""
    content = f"{request_id}.{timestamp}.".encode("utf-8", "replace") + body
    mac = hmac.new(_key(secret), content, hashlib.sha256).digest()
    return "v1," + base64.b64encode(mac).decode()


def _key(secret: str) -> bytes:
    if secret.startswith("whsec_"):
        try:
            return base64.b64decode(secret.removeprefix("whsec_"), validate=True)
        except binascii.Error:
            pass
    return secret.encode()


# Certificates of servers: a CA of one's own, and what a refusal means.


def trusting(ca: str | None, setting: str) -> ssl.SSLContext:
    """Trusts the CAs of the PEM file `ca`, which `setting` names, else certifi's.

    Raises UserInputError if there are none in it.
    """
    try:
        return ssl.create_default_context(cafile=ca or certifi.where())
    except OSError as error:  # ssl's own errors, too
        why = "it holds no certificate" if isinstance(error, ssl.SSLError) else error.strerror
        raise UserInputError(f"{setting}={ca!r}: {why}; name the CA's PEM file") from None


def refused(error: BaseException | None) -> ssl.SSLError | None:
    """What of `error` is about certificates or the protocol, so that trying again changes nothing."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, ssl.SSLCertVerificationError):
            return error
        if isinstance(error, ssl.SSLError) and error.reason == "WRONG_VERSION_NUMBER":
            return error
        inner = [getattr(error, "reason", None), *error.args, error.__cause__, error.__context__]
        error = next((found for found in inner if isinstance(found, BaseException)), None)
    return None


def sentence(error: ssl.SSLError, at: str, ca: str | None, setting: str) -> UserInputError:
    """For a person, who may have named another CA than the server's."""
    if not isinstance(error, ssl.SSLCertVerificationError):
        return UserInputError(f"{at} does not speak TLS; is it http://, or another port?")
    known = f"{setting}={ca} does not vouch for it" if ca else f"{setting} names no CA"
    return UserInputError(
        f"the certificate of {at} is refused ({error.verify_message}): {known};"
        " name the PEM file of the CA that signed it"
    )
