"""The progress of a run from its events, and what a person sees of it."""

from __future__ import annotations

import json
import sys
import time
from abc import ABC, abstractmethod
from collections import deque
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, Self, TextIO

from pelican.base.parse import parse_json
from pelican.records import Phase

# Events of a run as lines of a log, so that they pass through processes, pods and Kubeflow.
#
# A stage prints `::progress {…}` (see `StageJob.progress`); who launches it prints `::event {…}`
# at its start and end. Whoever follows the log picks the lines out again.

PROGRESS = "::progress "
EVENT = "::event "
ERROR = "::error "

Event = dict[str, Any]
Kind = Literal["progress", "event", "error"]
_PREFIXES: dict[Kind, str] = {"progress": PROGRESS, "event": EVENT, "error": ERROR}


def emit(kind: Kind, event: Event) -> None:
    """Print one event as a line of its own."""
    print(_PREFIXES[kind] + json.dumps(event, default=str), flush=True)


def parse(line: str) -> tuple[Kind, Event] | None:
    """The event in a line, or None. Indentation (Kubeflow's local runner) is ignored."""
    text = line.strip()
    if not text.startswith("::"):
        return None
    for kind, prefix in _PREFIXES.items():
        if text.startswith(prefix):
            try:
                event = parse_json(text.removeprefix(prefix))
            except ValueError:
                return None  # two processes wrote into one line
            return (kind, event) if isinstance(event, dict) else None
    return None


# The progress of a run from its events: which stage, how far, how fast, how long still.

WINDOW_S = 20.0  # over which the rate is taken
_KNOWN = {"stage", "loop", "phase", "done", "total", "unit", "rank"}


def where(event: Event) -> str:
    """`loop 1 RL`, `base`, or `final, sealed`."""
    if not event.get("loop"):
        return Phase(event.get("phase", Phase.BASE)).words
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


# What a person sees while a run goes on: bars in a terminal, plain lines elsewhere.

PLAIN_EVERY_S = 15.0


class View(ABC):
    """Takes the lines of a run's log and shows what they tell."""

    def __init__(self, stages: int) -> None:
        self.progress = RunProgress(stages)

    def line(self, line: str) -> bool:
        """Show a line's event; False if the line is none."""
        found = parse(line)
        if found is None:
            return False
        kind, event = found
        if kind == "progress":
            self.progress.on_progress(event)
            self.tick()
        elif kind == "event":
            self.event(event)
        return True

    def event(self, event: Event) -> None:
        """Show what happened to a stage."""
        self.progress.on_event(event)
        text = self._sentence(event)
        if text:
            self.say(text)
        self.tick()

    def _sentence(self, event: Event) -> str:
        run = self.progress
        name = f"{where(event):<10} {event.get('stage', ''):<10}"
        count = f"[{run.finished}/{run.stages}]"
        match event.get("event"):
            case "checked":
                return "preflight  recipe, checkpoints, data and space are in order"
            case "start":
                return self.started(name)
            case "done":
                score = f", {run.score}" if event.get("stage") == "eval" else ""
                tries = f", attempt {event['attempts']}" if event.get("attempts", 1) > 1 else ""
                took = duration(event["seconds"])
                if "beyond" in event:
                    took += f" ({duration(event['beyond'])} of it to start and end the job)"
                return f"{name} done in {took}{tries}{score} {count}"
            case "reused":
                return f"{name} done before {count}"
            case "smaller":
                size = event["batch_size"]
                return f"{name} out of memory; once more with a rollout.batch_size of {size}"
            case "waiting":
                return f"{name} waits: {event['message']}"
            case "again":
                return f"{name} is tried again: {event['message']}"
            case "told":
                return f"{event['stage']:<10} {event['message']}"
            case "failed":
                return f"{name} failed: {event['message']}"
        return ""

    def started(self, name: str) -> str:
        return f"{name} started"

    @abstractmethod
    def say(self, text: str) -> None:
        """Show a line that stays."""

    @abstractmethod
    def tick(self) -> None:
        """Show how far the current stage is; called often."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return None


class PlainView(View):
    """One line for the start and the end of a stage, and every 15 s between."""

    def __init__(self, stages: int, out: TextIO | None = None) -> None:
        super().__init__(stages)
        self._out = out or sys.stdout
        self._last_line = time.monotonic()

    def say(self, text: str) -> None:
        self._last_line = time.monotonic()
        print(f"{time.strftime('%H:%M:%S')}  {text}", file=self._out, flush=True)

    def tick(self) -> None:
        current = self.progress.current
        if current is None or time.monotonic() - self._last_line < PLAIN_EVERY_S:
            return
        self.say(f"{where(current.event):<10} {current.event['stage']:<10} {current.line()}")


class TerminalView(View):
    """The run's bar, the stage's bar under it, finished stages above."""

    def __init__(self, stages: int) -> None:
        super().__init__(stages)
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self._bars = Progress(
            TextColumn("{task.description:<22}"),
            BarColumn(bar_width=28),
            TextColumn("{task.fields[text]}"),
            TimeElapsedColumn(),
        )
        self._run = self._bars.add_task("run", total=stages, text="")
        self._stage = self._bars.add_task("", total=None, text="", visible=False)
        self._shown: Any = None

    def started(self, name: str) -> str:
        return ""  # its bar says so

    def say(self, text: str) -> None:
        self._bars.console.print(f"{time.strftime('%H:%M:%S')}  {text}", highlight=False)

    def tick(self) -> None:
        run, current = self.progress, self.progress.current
        text = f"{run.finished}/{run.stages} stages" + (f", {run.score}" if run.score else "")
        self._bars.update(self._run, completed=run.finished, text=text)
        if current is None:
            self._bars.update(self._stage, visible=False)
            return
        if current is not self._shown:
            self._bars.reset(self._stage)
            self._shown = current
        self._bars.update(
            self._stage,
            description=f"{where(current.event)} {current.event['stage']}",
            completed=current.done,
            total=current.total or None,
            text=current.line(),
            visible=True,
        )

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bars.stop()


def open_view(stages: int) -> View:
    """Bars if standard output is a terminal."""
    return TerminalView(stages) if sys.stdout.isatty() else PlainView(stages)
