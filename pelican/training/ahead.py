"""Work for later steps in a thread of its own, while this step trains."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

T = TypeVar("T")


class Ahead(Generic[T]):
    """Calls in the order in which they were submitted, and their results in that order.

    A daemon thread: a process that fails must not wait at its end for what others never send.
    """

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[tuple[Callable[[], T], Future[T]] | None]
        self._calls = queue.SimpleQueue()
        self._results: deque[Future[T]] = deque()
        self._thread = threading.Thread(target=self._run, name="ahead", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        """Results that nobody took yet."""
        return len(self._results)

    def submit(self, call: Callable[[], T]) -> None:
        future: Future[T] = Future()
        self._results.append(future)
        self._calls.put((call, future))

    def next(self) -> T:
        """The oldest result, waited for; or its call's error."""
        return self._results.popleft().result()

    def close(self) -> None:
        """Wait for all calls and forget their results."""
        self._calls.put(None)
        self._thread.join()
        self._results.clear()

    def _run(self) -> None:
        while (asked := self._calls.get()) is not None:
            call, future = asked
            try:
                future.set_result(call())
            except BaseException as error:
                future.set_exception(error)
