"""Rollout and train-rl by 1, 2 and 4 processes on the same work, beside what the cores allow.

The real stages by the local launcher, forked from one process that has imported the libraries, and timed
by their manifests. What the cores allow is measured in the same rounds: plain work that shares nothing,
split over as many processes.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from multiprocessing import get_context
from multiprocessing.pool import Pool
from pathlib import Path

from benchmarks.measure import busy_s, figure
from benchmarks.stage import stage_spec, write_buffer
from pelican.config.presets import find_recipe
from pelican.config.recipe import Recipe
from pelican.launch.local import ProcessLauncher
from pelican.launch.step import make_job
from pelican.launch.warm import warm_process
from pelican.stages.stage import StageName

PROCESSES = (1, 2, 4)
ROUNDS = 2
STAGES: tuple[StageName, ...] = ("rollout", "train-rl")
SMALL = "rl.prompts_per_step=8 rl.oversample=1 rl.refill=0 rl.stop.threshold=1 rl.save_steps=1000"
_BUSY = 1200  # units of plain work, a few seconds of one core


def seconds(stage: StageName, recipe: Recipe, buffer: Path, folder: Path) -> float:
    """Wall clock of one stage by the recipe's processes, from its manifest."""
    with tempfile.TemporaryDirectory(dir=folder) as store:
        spec = stage_spec(stage, recipe, Path(store), buffer if stage == "train-rl" else None)
        return ProcessLauncher().run(make_job(spec)).manifest.seconds


def recipe_of(samples: int, processes: int) -> Recipe:
    steps = max(2, samples // 24)
    return find_recipe(
        "tiny",
        [
            f"{SMALL} data.samples_per_loop={samples} rollout.shard_size={max(4, samples // 16)}",
            f"rl.max_steps={steps} rl.min_steps={steps}",
            f"rollout.workers={processes} rl.processes={processes}",
        ],
    )


def busy(units: int) -> float:
    """Matrices that fit a cache, and plain Python; seconds of the processor that it took."""
    import numpy as np

    started = time.process_time()
    matrix, total = np.full((256, 256), 0.5, dtype=np.float32), 0.0
    for _ in range(units):
        total += float((matrix @ matrix)[0, 0])
        total += sum(number * 0.5 for number in range(8000))
    assert total > 0
    return time.process_time() - started


def busy_seconds(pool: Pool, processes: int) -> tuple[float, float]:
    """Wall clock of the plain work, and which share of the cores other programs took meanwhile."""
    before, started = busy_s(), time.perf_counter()
    own = sum(pool.map(busy, [_BUSY // processes] * processes, chunksize=1))
    wall = time.perf_counter() - started
    others = busy_s() - before - own
    return wall, max(0.0, others / (wall * (os.cpu_count() or 1)))


def run(samples: int) -> None:
    recipes = {processes: recipe_of(samples, processes) for processes in PROCESSES}
    found: dict[tuple[str, int], list[float]] = {}
    others: list[float] = []
    os.environ |= {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    spawn = get_context("spawn")
    with tempfile.TemporaryDirectory() as name, warm_process():
        folder = Path(name)
        buffer = write_buffer(folder / "buffer", recipes[1], samples)
        pools = {processes: spawn.Pool(processes) for processes in PROCESSES}
        for pool in pools.values():
            pool.map(busy, [1] * 8, chunksize=1)  # numpy is imported
        rounds = ROUNDS if samples >= 64 else 1
        for _ in range(rounds):  # in turns: what else the machine does falls on all
            for processes, recipe in recipes.items():
                took, share = busy_seconds(pools[processes], processes)
                found.setdefault(("plain work", processes), []).append(took)
                others.append(share)
                for stage in STAGES:
                    took = seconds(stage, recipe, buffer, folder)
                    found.setdefault((stage, processes), []).append(took)
                    print(stage, processes, round(took, 1), file=sys.stderr, flush=True)
        for pool in pools.values():
            pool.terminate()
    speed = {key: min(found[key[0], 1]) / min(took) for key, took in found.items()}
    meaning = f"what {os.cpu_count()} cores allow: matrices and Python, nothing shared"
    if max(others) > 0.1:  # more processes then get more of the cores
        meaning += f"; beside other programs, which took {min(others):.0%} to {max(others):.0%}"
    for processes in PROCESSES[1:]:
        allowed = speed["plain work", processes]
        figure(f"plain work by {processes} processes", allowed, "x", f"against one; {meaning}")
        for stage in STAGES:
            own = speed[stage, processes]
            note = f"against one; {own / allowed:.0%} of what the cores allow"
            figure(f"{stage} by {processes} processes", own, "x", note)
    for stage in STAGES:
        note = f"{samples} samples, of this machine"
        figure(f"{stage} by one process", min(found[stage, 1]), "s", note)


if __name__ == "__main__":
    run(int(sys.argv[1]) if len(sys.argv) == 2 else 192)
