"""What all benchmarks share: timing in turns, a child's peak of memory, and a row of the table."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROW = "::row "
SKIPPED = "::skipped "


@dataclass(frozen=True)
class Row:
    """One figure: `value` against `goal`; `note` says how it was measured, or what bounds it."""

    name: str
    value: float
    unit: str
    goal: str = ""
    met: bool | None = None
    note: str = ""


def emit(row: Row) -> None:
    """Hand a row to the process that runs all benchmarks."""
    print(ROW + json.dumps(asdict(row)), flush=True)


def at_least(name: str, value: float, unit: str, goal: float, note: str = "") -> None:
    emit(Row(name, value, unit, f"≥ {goal:g}", value >= goal, note))


def at_most(name: str, value: float, unit: str, goal: float, note: str = "") -> None:
    emit(Row(name, value, unit, f"≤ {goal:g}", value <= goal, note))


def figure(name: str, value: float, unit: str, note: str = "") -> None:
    emit(Row(name, value, unit, note=note))


def skipped(why: str) -> None:
    """Nothing was measured: what an earlier run wrote stays on the page."""
    print(SKIPPED + why, flush=True)


def in_turns(times: int, *works: Callable[[], Any]) -> list[float]:
    """Least wall clock of each work over `times` rounds in which they take turns.

    So that what else the machine does falls on all of them; the least, because noise only adds.
    """
    best = [float("inf")] * len(works)
    for _ in range(times):
        for number, work in enumerate(works):
            started = time.perf_counter()
            work()
            best[number] = min(best[number], time.perf_counter() - started)
    return best


def peak_mb() -> float:
    """This process's largest resident size so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def busy_s() -> float:
    """Seconds that the cores of this machine were busy for any program, all cores together."""
    fields = Path("/proc/stat").read_text().split(maxsplit=9)[1:9]
    return sum(int(field) for field in (*fields[:3], *fields[5:8])) / os.sysconf("SC_CLK_TCK")


def child(module: str, *arguments: str) -> dict[str, Any]:
    """Run `python -m module` in a process of its own; the JSON object that it printed last."""
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{module} {' '.join(arguments)}: {done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found
