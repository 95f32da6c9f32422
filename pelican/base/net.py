"""Signed requests, and TLS with a CA of one's own."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import ssl

import certifi

from pelican.errors import UserInputError

# Signed requests by the Standard Webhooks specification, for those that come in and those we send.
#
# A request has the headers `webhook-id`, `webhook-timestamp` (seconds) and `webhook-signature`, which
# lists signatures `v1,<base64 of HMAC-SHA256 over "id.timestamp.body">`.

ID, TIMESTAMP, SIGNATURE = "webhook-id", "webhook-timestamp", "webhook-signature"


def sign(secret: str, request_id: str, timestamp: int, body: bytes) -> str:
    """The signature `v1,<base64>` of a request.

    Args:
        secret: the shared key: the bytes of `whsec_<base64>`, else the text itself.
        request_id: the header `webhook-id`.
        timestamp: the header `webhook-timestamp`, in seconds since 1970.
        body: the request's body as it is sent.
    """
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


# TLS: which CAs a client trusts, and why it refused a server.


def make_tls_context(ca: str | None, setting: str) -> ssl.SSLContext:
    """A context that trusts the CAs of the PEM file `ca`, or certifi's without one.

    Args:
        ca: the path of the file.
        setting: the variable that names the file, for the sentence.

    Raises:
        UserInputError: the file can't be read, or holds no certificate.
    """
    try:
        return ssl.create_default_context(cafile=ca or certifi.where())
    except OSError as error:  # ssl's own errors, too
        why = "it holds no certificate" if isinstance(error, ssl.SSLError) else error.strerror
        raise UserInputError(f"{setting}={ca!r}: {why}; name the CA's PEM file") from None


def find_refusal(error: BaseException | None) -> ssl.SSLError | None:
    """The TLS error in `error` or its causes that trying again can't mend; None if there is none.

    That is a certificate that was refused, or a server that does not speak TLS. HTTP clients wrap
    them in their own errors, often several times.
    """
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


def explain_refusal(error: ssl.SSLError, at: str, ca: str | None, setting: str) -> UserInputError:
    """The sentence for a TLS error that `find_refusal` found.

    Args:
        error: what was found.
        at: the server's address.
        ca: the path of the CA's file, which may be another CA than the server's.
        setting: the variable that names the file.
    """
    if not isinstance(error, ssl.SSLCertVerificationError):
        return UserInputError(f"{at} does not speak TLS; is it http://, or another port?")
    known = f"{setting}={ca} does not vouch for it" if ca else f"{setting} names no CA"
    return UserInputError(
        f"the certificate of {at} is refused ({error.verify_message}): {known};"
        " name the PEM file of the CA that signed it"
    )
