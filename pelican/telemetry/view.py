"""What a person sees while a run goes on: bars in a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from abc import ABC, abstractmethod
from types import TracebackType
from typing import Any, Self, TextIO

from pelican.telemetry.events import Event, parse
from pelican.telemetry.progress import RunProgress, duration, where

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
        self._told = time.monotonic()

    def say(self, text: str) -> None:
        self._told = time.monotonic()
        print(f"{time.strftime('%H:%M:%S')}  {text}", file=self._out, flush=True)

    def tick(self) -> None:
        current = self.progress.current
        if current is None or time.monotonic() - self._told < PLAIN_EVERY_S:
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
