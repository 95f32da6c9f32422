"""The log of a running pod, line by line, each once, whatever connections break."""

from __future__ import annotations

import threading
from collections.abc import Callable

from pelican.errors import PelicanError
from pelican.launch.kube import Absent, Kube


class LogFollower:
    """Follows one pod in a thread of its own; `on_line` is called from it."""

    def __init__(self, kube: Kube, pod: str, on_line: Callable[[str], None]) -> None:
        self._kube, self._pod, self._on_line = kube, pod, on_line
        self._ended = threading.Event()
        self._last = ""  # time of the last line, and the lines of that time
        self._same: list[str] = []
        self._thread = threading.Thread(target=self._run, name=f"log of {pod}", daemon=True)
        self._thread.start()

    def finish(self, wait_s: float) -> None:
        """The container has ended: read what is left, for at most `wait_s`."""
        self._ended.set()
        self._thread.join(wait_s)

    def _run(self) -> None:
        while True:
            ended = self._ended.is_set()  # before reading: then all of it is read once more
            try:
                for line in self._kube.stream_log(self._pod, self._last or None):
                    self._take(line)
            except Absent:
                return
            except (PelicanError, OSError):  # not started yet, or the connection broke
                pass
            except Exception as error:
                if "urllib3" not in type(error).__module__:
                    raise
            if ended:
                return
            self._ended.wait(1.0)

    def _take(self, line: str) -> None:
        """Times are in nanoseconds, `sinceTime` in seconds: lines come again and are left out."""
        time, _, text = line.partition(" ")
        if time < self._last or (time == self._last and text in self._same):
            return
        if time != self._last:
            self._last, self._same = time, []
        self._same.append(text)
        self._on_line(text)
