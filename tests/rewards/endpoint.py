"""A judge for tests: a real HTTP server that gives the replies it was told."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from pelican.config.recipe import JudgeConfig
from tests.endpoints import Chat, Said, chatting


@dataclass
class Endpoint:
    """`right`: what a prompt holds that is answered with yes; an int among `replies` is a status."""

    replies: list[Any] = field(default_factory=list)
    always: str | None = None
    right: str | None = None
    delay_s: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    chat: Chat = field(init=False)
    config: JudgeConfig = field(init=False)

    @property
    def asked(self) -> list[dict[str, Any]]:
        return self.chat.asked

    @property
    def most(self) -> int:
        return self.chat.most

    def reply(self, body: dict[str, Any]) -> Said:
        prompt = body["messages"][-1]["content"]
        with self._lock:
            right = self.right is not None and self.right in prompt
            reply: Said = "yes" if right else self.always or self.replies.pop(0)
        time.sleep(self.delay_s)
        return reply


@contextmanager
def judging() -> Iterator[Endpoint]:
    made = Endpoint()
    with chatting(made.reply) as made.chat:
        made.config = JudgeConfig(
            endpoint=made.chat.url, model="judge", timeout_s=5, attempts=3, backoff_s=0
        )
        yield made
