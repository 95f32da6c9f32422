"""How many requests one address may make: a token bucket each, of the addresses seen last."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable

ADDRESSES = 10_000


class RateLimit:
    """`burst` requests at once, refilled at `rate` a second. Thread-safe."""

    def __init__(self, rate: float, burst: int, clock: Callable[[], float]) -> None:
        self.rate, self.burst, self.clock = rate, burst, clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()

    def wait_s(self, address: str) -> float:
        """0 if the request may pass, else the seconds until the next may."""
        with self._lock:
            now = self.clock()
            left, at = self._buckets.pop(address, (float(self.burst), now))
            left = min(self.burst, left + (now - at) * self.rate)
            allowed = left >= 1
            self._buckets[address] = (left - allowed, now)
            if len(self._buckets) > ADDRESSES:
                self._buckets.popitem(last=False)
            return 0.0 if allowed else (1 - left) / self.rate
