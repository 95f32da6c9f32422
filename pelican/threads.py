"""Work that waits for the network, several items at a time, with the results in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def in_order(function: Callable[[T], R], items: Iterable[T], workers: int) -> Iterator[R]:
    """`function` of every item, in their order; at most `2 * workers` items are held at once.

    `items` is read by the caller's thread, so it may be an engine that generates meanwhile. With
    one worker nothing runs in another thread. The first error ends the iteration.
    """
    if workers <= 1:
        yield from map(function, items)
        return
    running: deque[Future[R]] = deque()
    with ThreadPoolExecutor(workers) as threads:
        try:
            for item in items:
                running.append(threads.submit(function, item))
                while running and (running[0].done() or len(running) >= 2 * workers):
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        finally:
            threads.shutdown(wait=False, cancel_futures=True)
