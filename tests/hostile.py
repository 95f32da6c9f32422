"""Texts that are made to be slow: what is linear takes milliseconds, what is not takes seconds or hours."""

from __future__ import annotations

import time
from collections.abc import Callable

LIMIT_S = 0.5
TRIES = 5


def ends_at_once(work: Callable[[], object]) -> bool:
    """Whether one of some tries takes less than half a second of this thread's time.

    That is some hundred times of what linear code needs, so it says nothing of speed. One slow try may
    be a collection of garbage that other tests left; five of five are the code.
    """
    for _ in range(TRIES):
        began = time.thread_time()
        work()
        if time.thread_time() - began < LIMIT_S:
            return True
    return False
