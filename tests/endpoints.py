"""Real HTTP servers for tests: one that answers by a function, one that speaks OpenAI's API."""

from __future__ import annotations

import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = tuple[int, Any]  # status, and bytes or what becomes JSON
Said = str | int | Answer | None  # a reply's text, a status, or a status with a whole body


@dataclass(frozen=True)
class Request:
    """`headers` by their names in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


def free_port() -> int:
    """Of this machine; another may take it before it is used."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def serving(
    answer: Callable[[Request], Answer], tls: ssl.SSLContext | None = None, port: int = 0
) -> Iterator[str]:
    """A server in threads of its own, on a free port if none is given; yields its address."""

    class Handler(BaseHTTPRequestHandler):
        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            status, reply = answer(Request(self.command, self.path, headers, body))
            data = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PATCH = do_DELETE = _serve

        def log_message(self, *_: object) -> None:
            return None

    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"{'http' if tls is None else 'https'}://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


def completion(text: str | None, **message: Any) -> dict[str, Any]:
    """A reply of the chat API, of seven tokens."""
    said = {"role": "assistant", "content": text, **message}
    choice = {"message": said, "finish_reason": "stop"}
    return {"choices": [choice], "usage": {"completion_tokens": 7}}


def prompt_of(body: dict[str, Any]) -> str:
    """The text of a request's last message."""
    text: str = body["messages"][-1]["content"][-1]["text"]
    return text


@dataclass
class Chat:
    """What a chat server answers, and what it was asked: bodies with their `path`."""

    answer: Callable[[dict[str, Any]], Said]
    url: str = ""  # with /v1
    asked: list[dict[str, Any]] = field(default_factory=list)
    headers: list[Mapping[str, str]] = field(default_factory=list)
    running: int = 0
    most: int = 0  # requests at a time
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, request: Request) -> Answer:
        if request.method == "GET":
            return 200, {"data": [{"id": "served"}]}
        body = {**json.loads(request.body), "path": request.path}
        with self._lock:
            self.asked.append(body)
            self.headers.append(request.headers)
            self.running += 1
            self.most = max(self.most, self.running)
        said = self.answer(body)
        with self._lock:
            self.running -= 1
        if isinstance(said, tuple):
            return said
        return (said, {}) if isinstance(said, int) else (200, completion(said))


@contextmanager
def chatting(answer: Callable[[dict[str, Any]], Said]) -> Iterator[Chat]:
    """An OpenAI-compatible server that answers what it is told and notes what it is asked."""
    chat = Chat(answer)
    with serving(chat) as address:
        chat.url = f"{address}/v1"
        yield chat
