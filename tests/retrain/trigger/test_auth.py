"""Who is let in: tokens and signatures, and what a refusal says."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from pelican.base.net import sign
from pelican.retrain.trigger.service import RefusedError, authenticate

TOKENS = [SecretStr("the-old-token-0000"), SecretStr("the-new-token-1111")]
SECRETS = [SecretStr("the-old-secret-000"), SecretStr("the-new-secret-111")]
NOW = 1_700_000_000


def signed(
    secret: str = "the-new-secret-111", stamp: int = NOW, body: bytes = b"{}"
) -> dict[str, str]:
    return {
        "webhook-id": "m1",
        "webhook-timestamp": str(stamp),
        "webhook-signature": sign(secret, "m1", stamp, body),
    }


def check(headers: dict[str, str], body: bytes = b"{}") -> str:
    return authenticate(headers, body, TOKENS, SECRETS, 300, NOW).kind


@pytest.mark.parametrize("token", ["the-old-token-0000", "the-new-token-1111"])
def test_every_token_of_the_list_is_let_in(token: str) -> None:
    assert check({"authorization": f"Bearer {token}"}) == "bearer"


def test_a_signature_is_that_of_the_specification() -> None:
    """The example of the Standard Webhooks specification."""
    secret = "whsec_" + base64.b64encode(b"plJ3nmyCDGBKInavdOK15jsl").decode()
    body = b'{"event_type":"ping","data":{"success":true}}'
    made = sign(secret, "msg_loFOjxBNrRLzqYUf", 1731705121, body)
    assert made == sign("plJ3nmyCDGBKInavdOK15jsl", "msg_loFOjxBNrRLzqYUf", 1731705121, body)
    assert check({**signed(), "webhook-signature": "v1,AAAA " + signed()["webhook-signature"]})


REFUSED = {
    "nothing": ({}, "unsigned"),
    "another scheme": ({"authorization": "Basic dTpw"}, "unsigned"),
    "an empty token": ({"authorization": "Bearer "}, "unsigned"),
    "a wrong token": ({"authorization": "Bearer the-old-token-000"}, "wrong_token"),
    "a token that is no ASCII": ({"authorization": "Bearer \xff\xfe"}, "wrong_token"),
    "a wrong secret": (signed("another-secret-000"), "wrong_signature"),
    "another body": (signed(body=b"{ }"), "wrong_signature"),
    "an old request": (signed(stamp=NOW - 301), "stale"),
    "a request of the future": (signed(stamp=NOW + 301), "stale"),
    "a time that is none": ({**signed(), "webhook-timestamp": "soon"}, "malformed_signature"),
    "a huge time": ({**signed(), "webhook-timestamp": "9" * 400}, "malformed_signature"),
    "a signature without an id": (
        {k: v for k, v in signed().items() if k != "webhook-id"},
        "malformed_signature",
    ),
    "a wrong signature beside a right token": (
        {**signed("another-secret-000"), "authorization": "Bearer the-old-token-0000"},
        "wrong_signature",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name: str) -> None:
    headers, reason = REFUSED[name]
    with pytest.raises(RefusedError) as refused:
        check(headers)
    assert (refused.value.status, refused.value.reason) == (401, reason)


@given(st.dictionaries(st.sampled_from(sorted(signed())), st.text()), st.text(), st.binary())
def test_nothing_made_up_is_let_in(headers: dict[str, str], bearer: str, body: bytes) -> None:
    with pytest.raises(RefusedError):
        check({**headers, "authorization": bearer}, body)
