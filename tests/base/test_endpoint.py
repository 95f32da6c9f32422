"""The chat client against a real HTTP server: what it sends, and what it makes of bad replies."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from typing import Any

import pytest

from pelican.base.endpoint import ChatClient, ChatReply, served_models
from pelican.errors import InfrastructureError, UserInputError
from tests.endpoints import Answer, Chat, Request, chatting, completion, serving

BODY = {"messages": [{"role": "user", "content": "how many?"}], "max_tokens": 8, "seed": 5}


@pytest.fixture
def server() -> Iterator[Chat]:
    with chatting(lambda body: "three") as chat:
        yield chat


def client_of(url: str, **options: Any) -> ChatClient:
    more = {"attempts": 2, "backoff_s": 0.0, **options}
    return ChatClient(url, "big", who="judge", setting="--judge", key_variable="TEST_KEY", **more)


def test_nothing_of_the_environments_openai_account_reaches_an_endpoint(
    server: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("API_KEY", "ADMIN_KEY", "ORG_ID", "PROJECT_ID"):
        monkeypatch.setenv(f"OPENAI_{name}", "secret")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    assert client_of(server.url).ask(BODY) == ChatReply("three", 7)
    assert served_models(server.url, "--judge", "TEST_KEY") == ["served"]
    assert "secret" not in str(server.headers)
    monkeypatch.setenv("TEST_KEY", "own")
    monkeypatch.setenv("TEST_KEY_HOSTS", "127.0.0.1")
    client_of(server.url).ask(BODY)
    assert server.headers[-1]["authorization"] == "Bearer own"


def test_a_key_is_never_logged(
    server: Chat, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TEST_KEY", "secret")
    monkeypatch.setenv("TEST_KEY_HOSTS", "127.0.0.1")
    with caplog.at_level(logging.DEBUG):
        client_of(server.url).ask(BODY)
        server.answer = lambda body: 401
        with pytest.raises(UserInputError, match=r"refuses the key .*set TEST_KEY") as caught:
            client_of(server.url).ask(BODY)
    assert caplog.records and "secret" not in caplog.text
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("prefix", ["/v1", "/v1/", "/team/judge/v1"])
def test_an_address_may_have_a_prefix(prefix: str) -> None:
    asked: list[str] = []

    def answer(request: Request) -> Answer:
        asked.append(request.path)
        return 200, completion("x") if request.method == "POST" else {"data": [{"id": "a"}]}

    with serving(answer) as address:
        assert client_of(f"{address}{prefix}").ask(BODY).text == "x"
        assert served_models(f"{address}{prefix}", "--judge", "TEST_KEY") == ["a"]
    assert asked == [f"{prefix.rstrip('/')}{end}" for end in ("/chat/completions", "/models")]


def test_the_body_is_sent_as_it_is(server: Chat) -> None:
    client_of(server.url).ask(BODY)
    assert server.asked == [{"model": "big", **BODY, "path": "/v1/chat/completions"}]


def test_a_server_that_is_too_slow_is_asked_again_and_then_said_to_be_away(server: Chat) -> None:
    def slow(body: dict[str, Any]) -> str:
        time.sleep(0.5)
        return "late"

    server.answer = slow
    with pytest.raises(InfrastructureError, match=r"not answer in 2 attempts \(ReadTimeout"):
        client_of(server.url, timeout_s=0.1).ask(BODY)
    assert len(server.asked) == 2


def test_a_server_that_is_not_there_is_named_with_the_reason() -> None:
    words = r"judge http://127.0.0.1:9/v1/chat/completions did not .*ConnectError.*check --judge"
    with pytest.raises(InfrastructureError, match=words):
        client_of("http://127.0.0.1:9/v1").ask(BODY)
    with pytest.raises(UserInputError, match=r"does not list its models .*refused.*check --judge"):
        served_models("http://127.0.0.1:9/v1", "--judge", "TEST_KEY")


@pytest.mark.parametrize("url", ["http://", "ftp://host/v1", "http://host:port/v1", "http://[::1"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(UserInputError, match=r"--judge '.*' is not an http\(s\) URL"):
        client_of(url)
    with pytest.raises(UserInputError, match=r"--judge '.*' is not an http\(s\) URL"):
        served_models(url, "--judge", "TEST_KEY")


@pytest.mark.parametrize("listed", [{"data": []}, {"data": None}, [], b"<html>", {"data": [1]}])
def test_an_endpoint_that_lists_no_models_is_refused(listed: Any) -> None:
    with (
        serving(lambda request: (200, listed)) as address,
        pytest.raises(UserInputError, match=r"list its models|lists no model"),
    ):
        served_models(f"{address}/v1", "--judge", "TEST_KEY")


@pytest.mark.parametrize(
    "reply",
    [
        {"choices": None},
        {"choices": [{}]},
        {"choices": [{"message": {"content": 3}}]},
        {"choices": [{"message": {"content": "x"}}], "usage": {"completion_tokens": "many"}},
        None,
        b"",
        "text",
    ],
)
def test_a_reply_that_is_no_completion_is_that_requests_error(server: Chat, reply: Any) -> None:
    server.answer = lambda body: (200, reply)
    found = client_of(server.url).ask(BODY)
    assert found == ChatReply("", 0, error="the endpoint's reply is not a chat completion")
