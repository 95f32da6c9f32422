"""The one client of OpenAI-compatible chat endpoints: teacher, judge and served policies use it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pelican.errors import InfrastructureError, UserInputError

if TYPE_CHECKING:
    import httpx

ATTEMPTS = 6  # requests for one reply, unless the caller says otherwise


@dataclass(frozen=True, slots=True)
class ChatReply:
    """One reply. `error` says why there is no text: the endpoint refused this one request."""

    text: str
    tokens: int
    finish: Literal["stop", "length"] = "stop"
    error: str = ""


class ChatClient:
    """Posts to `<url>/chat/completions`; `url` ends in /v1. Safe to use from several threads.

    A busy or failing server is asked again, then it is an InfrastructureError; a wrong key or model
    is a UserInputError; a request that the server refuses (too long, say) is that reply's error.
    `who` and `setting` name the endpoint in these sentences; the key comes from the environment
    variable `key_variable` alone.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        who: str,
        setting: str,
        key_variable: str,
        concurrency: int = 8,
        attempts: int | None = None,
        backoff_s: float = 1.0,
        timeout_s: float = 600.0,
    ) -> None:
        import httpx

        if not url.startswith(("http://", "https://")):
            raise UserInputError(f"{setting} {url!r} is not an http(s) URL; give its /v1")
        key = os.environ.get(key_variable)
        self.url = url.rstrip("/")
        self.model = model
        self.concurrency = concurrency
        self._who = f"{who} {self.url}/chat/completions"
        self._setting = setting
        self._key_variable = key_variable
        self._attempts = attempts or ATTEMPTS
        self._backoff_s = backoff_s
        self._client = httpx.Client(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(timeout_s, connect=10.0),
            limits=httpx.Limits(max_connections=concurrency),
        )

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def ask(self, body: dict[str, Any]) -> ChatReply:
        """One reply to a request without its model. Raises InfrastructureError, UserInputError."""
        import httpx
        from tenacity import (
            Retrying,
            retry_if_exception_type,
            stop_after_attempt,
            wait_random_exponential,
        )

        retrying = Retrying(
            retry=retry_if_exception_type((httpx.TransportError, _BusyError)),
            stop=stop_after_attempt(self._attempts),
            wait=wait_random_exponential(multiplier=self._backoff_s, max=60.0),
            reraise=True,
        )
        request = {"model": self.model, **body}
        try:
            for attempt in retrying:
                with attempt:
                    url = f"{self.url}/chat/completions"
                    return self._read(self._client.post(url, json=request))
        except (httpx.TransportError, _BusyError) as error:
            raise InfrastructureError(
                f"{self._who} did not answer in {self._attempts} attempts"
                f" ({type(error).__name__}: {error}); start it or check {self._setting}"
            ) from None
        raise AssertionError("tenacity returns or raises")

    def _read(self, response: httpx.Response) -> ChatReply:
        status = response.status_code
        if status in (408, 409, 425, 429) or status >= 500:
            raise _BusyError(f"status {status}")
        if status in (401, 403):
            raise UserInputError(
                f"{self._who} refuses the key (status {status}); set {self._key_variable}"
            )
        if status == 404:
            raise UserInputError(
                f"{self._who} has no model {self.model!r} (status 404); check {self._setting}"
                " and the model's name"
            )
        if status >= 300:
            return ChatReply("", 0, error=f"the endpoint refused the request (status {status})")
        try:
            content = response.json()
            choice = content["choices"][0]
            message = choice["message"]
            text, thought = message.get("content") or "", message.get("reasoning_content") or ""
            tokens = int((content.get("usage") or {}).get("completion_tokens") or 0)
            cut = choice.get("finish_reason") == "length"
        except (ValueError, KeyError, IndexError, TypeError, AttributeError):
            return ChatReply("", 0, error="the endpoint's reply is not a chat completion")
        if thought and "<think>" not in text:  # servers that split the thinking off
            text = f"<think>{thought}</think>{text}"
        text = text.encode("utf-8", "replace").decode()
        return ChatReply(text, tokens, "length" if cut else "stop")


def served_models(url: str, setting: str, key_variable: str) -> list[str]:
    """The names that `<url>/models` lists. Raises UserInputError if it lists none."""
    import httpx

    key = os.environ.get(key_variable)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    address = f"{url.rstrip('/')}/models"
    try:
        listed = httpx.get(address, headers=headers, timeout=10.0).raise_for_status().json()
        names = [str(one["id"]) for one in listed["data"]]
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, LookupError, TypeError) as error:
        raise UserInputError(
            f"{address} does not list its models ({error}); check {setting}, or name the model"
        ) from None
    if not names:
        raise UserInputError(f"{address} lists no model; name the one to ask")
    return names


class _BusyError(Exception):
    """The server can't answer now; it may later."""
