"""The state of a stage's job as its launcher sees it, pushed at each change."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, get_args

from pelican.errors import InfrastructureError, ResourceError, UserInputError
from pelican.metrics import catalogue as m
from pelican.telemetry.exporter import JOB, pushed

State = Literal["pending", "running", "succeeded", "failed"]
_KINDS: dict[type[BaseException], str] = {
    UserInputError: "user",
    InfrastructureError: "infrastructure",
    ResourceError: "memory",
}


class JobWatch:
    """One job of a stage: pending until its first sign of work."""

    def __init__(self, send: Callable[[], None]) -> None:
        self._send = send
        self._launched = time.time()
        self._state: State | None = None
        self._enter("pending")

    def working(self) -> None:
        """The job reported progress; only the first time counts."""
        if self._state == "pending":
            m.JOB_WAIT.set(time.time() - self._launched)
            self._enter("running")

    def succeeded(self, attempts: int) -> None:
        """The stage is committed."""
        m.JOB_ATTEMPTS.set(attempts)
        self._enter("succeeded")

    def failed(self, error: BaseException) -> None:
        """The launcher gave up, or was stopped."""
        kind = next((kind for cls, kind in _KINDS.items() if isinstance(error, cls)), "stage")
        if isinstance(error, SystemExit | KeyboardInterrupt):
            kind = "cancelled"
        m.JOB_FAILED.set(1, kind=kind)
        self._enter("failed")

    def _enter(self, state: State) -> None:
        self._state = state
        for name in get_args(State):
            m.JOB_STATE.set(float(name == state), state=name)
        m.JOB_SINCE.set(time.time())
        self._send()


@contextmanager
def watched(stage: str, phase: str) -> Iterator[JobWatch]:
    """Watch one job from its launch to its end."""
    with pushed(stage, phase, job=JOB) as send:
        watch = JobWatch(send)
        try:
            yield watch
        except BaseException as error:
            watch.failed(error)
            raise
