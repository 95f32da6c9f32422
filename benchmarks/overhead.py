"""What orchestration costs beside the work itself: `make bench`.

Seconds, the median of several: importing the command line, torch and kfp, compiling the graph, and
one task of Kubeflow's local runner that does nothing.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.measure import figure

TIMES = 5

EMPTY_TASKS = """
import logging, sys, time, warnings
from kfp import dsl, local
warnings.filterwarnings("ignore")

@dsl.component(base_image="python:3.11", install_kfp_package=False)
def nothing() -> str:
    return ""

@dsl.pipeline(name="nothing")
def pipeline():
    before = nothing()
    for _ in range(int(sys.argv[2]) - 1):
        before = nothing().after(before)

local.init(local.SubprocessRunner(use_venv=False), pipeline_root=sys.argv[1])
started = time.monotonic()
pipeline()
print(f"seconds {time.monotonic() - started}")
"""


def python(*arguments: str) -> str:
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True)
    return done.stdout


def seconds(work: Callable[[], object]) -> float:
    """Median wall clock of TIMES runs."""
    found = []
    for _ in range(TIMES):
        started = time.monotonic()
        work()
        found.append(time.monotonic() - started)
    return statistics.median(found)


def main() -> None:
    def show(name: str, took: float) -> None:
        figure(name, took, "s", "of this machine")

    start = seconds(lambda: python("-c", "pass"))
    show("start of python", start)
    for name in ("pelican.cli.main", "pelican.launch", "kfp", "torch"):
        took = seconds(lambda name=name: python("-c", f"import {name}"))  # type: ignore[misc]
        show(f"import {name}", took - start)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ir.yaml"
        took = seconds(lambda: python("-m", "pelican", "compile", "metaloop", "-o", str(path)))
        show(f"compile metaloop, three loops: {path.stat().st_size} bytes", took)
        tasks = 10
        script = Path(folder) / "empty_tasks.py"  # kfp reads a component's source from its file
        script.write_text(EMPTY_TASKS)
        lines = python(str(script), folder, str(tasks)).splitlines()
        took = float(next(line for line in lines if line.startswith("seconds ")).split()[1])
        show("an empty task of kfp.local", took / tasks)


if __name__ == "__main__":
    main()
