"""Signed requests after the Standard Webhooks specification: those that come in and those we send.

A signed request has `webhook-id`, `webhook-timestamp` (seconds) and `webhook-signature`, a list of
`v1,<base64 of HMAC-SHA256 over "id.timestamp.body">`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac

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
