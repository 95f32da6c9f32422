"""The one client of OpenAI-compatible chat endpoints: teacher, judge and served policies use it.

On httpx, not on OpenAI's own SDK: `docs/decisions/2026-11-30-chat-without-openais-sdk.md` says why.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

from pelican.base.address import refuse_credentials
from pelican.errors import InfrastructureError, UserInputError

HOSTS = "_HOSTS"  # ends the name of the variable that lists whom a key is for
ATTEMPTS = 6  # requests for one reply, unless the caller says otherwise
_BUSY = (408, 409, 425, 429)  # and everything from 500: the server may answer later


@dataclass(frozen=True, slots=True)
class ChatReply:
    """One reply. `error` says why there is no text: the endpoint refused this one request."""

    text: str
    tokens: int
    finish: Literal["stop", "length"] = "stop"
    error: str = ""
    prompt_tokens: int = 0  # 0: the endpoint doesn't say


class ChatClient:
    """Posts to `<url>/chat/completions`. Safe to use from several threads.

    A busy or failing server is asked again, then it is an InfrastructureError; a wrong key or model
    is a UserInputError; a request that the server refuses (too long, say) is that reply's error.
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
        """Connects to nothing yet.

        Args:
            url: Address of the endpoint, to its /v1.
            model: The name under which the endpoint serves the model.
            who: What the endpoint is, for messages: "judge".
            setting: The option or field that names it, for messages: "reward.judge.endpoint".
            key_variable: The environment variable that may hold its key; another one, which ends in
                `_HOSTS`, lists the hosts that get the key.
            concurrency: Requests at a time, at most.
            attempts: Requests for one reply, ATTEMPTS if None.
            backoff_s: The longest wait before the second attempt; each further wait may be twice as
                long as the one before, and a minute at most.
            timeout_s: For one reply.

        Raises:
            UserInputError: `url` is not an http(s) URL, or holds a password.
        """
        import httpx

        _check_url(url, setting)
        self.url = url.rstrip("/")
        self.model = model
        self.concurrency = concurrency
        self._who = f"{who} {self.url}/chat/completions"
        self._setting = setting
        self._key_variable = key_variable
        self._attempts = attempts or ATTEMPTS
        self._backoff_s = backoff_s
        self._client = httpx.Client(
            headers=_read_key(key_variable, url),
            timeout=httpx.Timeout(timeout_s, connect=10.0),
            limits=httpx.Limits(max_connections=concurrency),
        )

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def ask(self, body: dict[str, Any]) -> ChatReply:
        """One reply to a request, which does not name the model itself.

        Raises:
            InfrastructureError: The endpoint is away, or busy at every attempt.
            UserInputError: It refuses the key, or has no such model.
        """
        import httpx
        import tenacity

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type((httpx.TransportError, _BusyError)),
            stop=tenacity.stop_after_attempt(self._attempts),
            wait=tenacity.wait_random_exponential(multiplier=self._backoff_s, max=60.0),
            reraise=True,
        )
        try:
            return retrying(self._ask_once, {"model": self.model, **body})
        except httpx.TransportError as error:
            why = f"{type(error).__name__}: {error}"
        except _BusyError as error:
            why = str(error)
        raise InfrastructureError(
            f"{self._who} did not answer in {self._attempts} attempts ({why}); start it or check"
            f" {self._setting}"
        )

    def _ask_once(self, request: dict[str, Any]) -> ChatReply:
        response = self._client.post(f"{self.url}/chat/completions", json=request)
        status = response.status_code
        if status in _BUSY or status >= 500:
            raise _BusyError(f"status {status}")
        if status in (401, 403):
            if "authorization" in self._client.headers:
                why = f"refuses the key (status {status}); set {self._key_variable}"
            else:
                bound = f"{self._key_variable}{HOSTS}={urlsplit(self.url).netloc}"
                why = f"wants a key (status {status}); set {self._key_variable}, and {bound} too"
            raise UserInputError(f"{self._who} {why}")
        if status == 404:
            raise UserInputError(
                f"{self._who} has no model {self.model!r} (status 404); check {self._setting}"
                " and the model's name"
            )
        if status >= 300:
            return ChatReply("", 0, error=f"the endpoint refused the request (status {status})")
        try:
            return _read_completion(response.json())
        except (ValueError, LookupError, TypeError, AttributeError):
            return ChatReply("", 0, error="the endpoint's reply is not a chat completion")


def served_models(url: str, setting: str, key_variable: str) -> list[str]:
    """Names of the models that the endpoint `url` serves.

    Raises:
        UserInputError: `url` is no http(s) URL, does not answer with a list, or lists no model; it names
            `setting`.
    """
    import httpx

    _check_url(url, setting)
    address = f"{url.rstrip('/')}/models"
    try:
        response = httpx.get(address, headers=_read_key(key_variable, url), timeout=10.0)
        names = [str(model["id"]) for model in response.raise_for_status().json()["data"]]
    except (httpx.HTTPError, ValueError, LookupError, TypeError) as error:
        raise UserInputError(
            f"{address} does not list its models ({error}); check {setting}, or name the model"
        ) from None
    if not names:
        raise UserInputError(f"{address} lists no model; name the one to ask")
    return names


class _BusyError(Exception):
    """The server can't answer now; it may later."""


def _read_key(variable: str, url: str) -> dict[str, str]:
    """The header with the key from the environment; none without one, or if it is for other hosts.

    Raises:
        UserInputError: the key holds what no header can, such as a line break inside.
    """
    import httpx

    key = os.environ.get(variable, "").strip()  # a file's last newline often comes along
    if not (key.isascii() and key.isprintable()):
        raise UserInputError(f"{variable} holds characters that no key has; copy it again")
    bound = {host.strip().lower() for host in os.environ.get(f"{variable}{HOSTS}", "").split(",")}
    parts = httpx.URL(url)  # as the client reads it, so that both mean the same host
    own = {parts.host, parts.netloc.decode()}
    return {"Authorization": f"Bearer {key}"} if key and own & bound - {""} else {}


def is_http(url: str) -> bool:
    """Whether this is an address that is asked by HTTP."""
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number, say
        return False


def _check_url(url: str, setting: str) -> None:
    refuse_credentials(url, setting, "give the key by its variable")
    if not is_http(url):
        raise UserInputError(f"{setting} {url!r} is not an http(s) URL; give its /v1")


def _read_completion(content: Any) -> ChatReply:
    """The reply's text, with the thinking that some servers split off put back in front of it."""
    choice = content["choices"][0]
    message = choice["message"]
    text, thought = message.get("content") or "", message.get("reasoning_content") or ""
    if thought and "<think>" not in text:
        text = f"<think>{thought}</think>{text}"
    usage = content.get("usage") or {}
    return ChatReply(
        text.encode("utf-8", "replace").decode(),
        int(usage.get("completion_tokens") or 0),
        "length" if choice.get("finish_reason") == "length" else "stop",
        prompt_tokens=int(usage.get("prompt_tokens") or 0),
    )
