"""A judge for tests: a real HTTP server that gives the replies it was told."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from pelican.recipe import JudgeConfig


class Endpoint:
    """An OpenAI-compatible server that gives the replies it was told."""

    def __init__(self) -> None:
        self.replies: list[Any] = []
        self.always: str | None = None
        self.right: str | None = None  # what a prompt holds that is answered with yes
        self.asked: list[dict[str, Any]] = []
        self.delay_s = 0.0
        self.running = self.most = 0
        lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                decoded = body.replace(b"\\n", b"\n")
                with lock:
                    outer.asked.append({"path": self.path, **json.loads(body)})
                    outer.running += 1
                    outer.most = max(outer.most, outer.running)
                    right = outer.right is not None and outer.right.encode() in decoded
                    reply = "yes" if right else outer.always or outer.replies.pop(0)
                time.sleep(outer.delay_s)
                with lock:
                    outer.running -= 1
                if isinstance(reply, int):
                    self.send_error(reply)
                    return
                data = json.dumps({"choices": [{"message": {"content": reply}}]}).encode()
                self.send_response(200)
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.config = JudgeConfig(
            endpoint=f"http://127.0.0.1:{self.server.server_port}/v1",
            model="judge",
            timeout_s=5,
            attempts=3,
            backoff_s=0,
        )


@contextmanager
def judging() -> Iterator[Endpoint]:
    made = Endpoint()
    try:
        yield made
    finally:
        made.server.shutdown()
        made.server.server_close()
