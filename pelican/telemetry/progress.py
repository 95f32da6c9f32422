"""The progress of a run from its events: which stage, how far, how fast, how long still."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from pelican.telemetry.events import Event

WINDOW_S = 20.0  # over which the rate is taken
_KNOWN = {"stage", "loop", "phase", "done", "total", "unit", "rank"}


def where(event: Event) -> str:
    """`loop 1 RL` or `base`."""
    if not event.get("loop"):
        return "base"
    return f"loop {event['loop']} {str(event.get('phase', '')).upper()}"


def duration(value: float) -> str:
    """`8 s`, `2 min 05 s`, `1 h 02 min`."""
    whole = round(value)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


@dataclass
class StageProgress:
    """The stage that runs now. Ranks report their share; `done` and `total` are their sums."""

    event: Event
    started: float
    unit: str = ""
    info: dict[str, float] = field(default_factory=dict)
    _ranks: dict[int, tuple[int, int]] = field(default_factory=dict)
    _history: deque[tuple[float, int]] = field(default_factory=deque)

    def update(self, event: Event, now: float) -> None:
        self._ranks[event.get("rank", 0)] = (int(event["done"]), int(event["total"]))
        self.unit = str(event["unit"])
        self.info = {k: float(v) for k, v in event.items() if k not in _KNOWN and _number(v)}
        self._history.append((now, self.done))
        while len(self._history) > 2 and now - self._history[0][0] > WINDOW_S:
            self._history.popleft()

    @property
    def done(self) -> int:
        return sum(done for done, _ in self._ranks.values())

    @property
    def total(self) -> int:
        return sum(total for _, total in self._ranks.values())

    @property
    def rate(self) -> float | None:
        """Units a second over the last window, or None before there are two reports."""
        if len(self._history) < 2:
            return None
        (start, first), (end, last) = self._history[0], self._history[-1]
        return (last - first) / (end - start) if end > start and last > first else None

    @property
    def eta(self) -> float | None:
        """Seconds that the rest takes at this rate."""
        return (self.total - self.done) / self.rate if self.rate else None

    def line(self) -> str:
        """`1200/2880 completions, 160.0/s, 11 s left, reward 0.41`."""
        parts = [f"{self.done}/{self.total} {self.unit}"] if self.total else []
        if self.rate:
            parts.append(f"{self.rate:.3g}/s")
        if self.eta is not None:
            parts.append(f"{duration(self.eta)} left")
        parts += [f"{name} {value:.3g}" for name, value in list(self.info.items())[:3]]
        return ", ".join(parts)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


@dataclass
class RunProgress:
    """All stages of a run: how many are done, which runs, the last score, why it failed."""

    stages: int
    finished: int = 0
    current: StageProgress | None = None
    score: str = ""
    failure: Event | None = None

    def on_progress(self, event: Event) -> None:
        now = time.monotonic()
        if self.current is None or self.current.event["stage"] != event.get("stage"):
            self.current = StageProgress(event, now)
        self.current.update(event, now)

    def on_event(self, event: Event) -> None:
        kind = event.get("event")
        if kind == "start":
            self.current = StageProgress(event, time.monotonic())
        elif kind in ("done", "reused"):
            self.finished += 1
            self.current = None
            metrics = event.get("metrics", {})
            if event.get("stage") == "eval" and "embodied" in metrics:
                self.score = f"embodied {metrics['embodied']:.1f}"
                if "general" in metrics:
                    self.score += f", general {metrics['general']:.1f}"
        elif kind == "failed":
            self.failure = event
            self.current = None
