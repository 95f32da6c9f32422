"""Rollout and train-rl by 1, 2 and 4 processes on the same work: what the cores of this machine allow.

The real stages by the local launcher, timed by their own manifests, so that starting Python and
importing torch, which every process does on its own, is left out.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import polars as pl

from benchmarks.measure import figure
from pelican.data.pool import read_index
from pelican.launch.process import ProcessLauncher
from pelican.launch.steps import make_job
from pelican.recipes import find_recipe
from pelican.records import Phase
from pelican.settings import resolve
from pelican.stages.spec import StageName, StageSpec

PROCESSES = (1, 2, 4)
ROUNDS = 2
SMALL = "rl.prompts_per_step=8 rl.oversample=1 rl.refill=0 rl.stop.threshold=1 rl.save_steps=1000"


def seconds(stage: StageName, processes: int, samples: int, folder: Path) -> float:
    """Wall clock of one stage by so many processes, from its manifest."""
    steps = max(2, samples // 24)
    recipe = find_recipe(
        "tiny",
        [
            f"{SMALL} data.samples_per_loop={samples} rollout.shard_size={max(4, samples // 16)}",
            f"rl.max_steps={steps} rl.min_steps={steps}",
            f"rollout.workers={processes} rl.processes={processes}",
        ],
    )
    pool = Path(resolve(recipe.data.train))
    buffer = folder / "buffer"
    if not buffer.exists():
        buffer.mkdir(parents=True)
        ids = [entry.id for entry in read_index(pool).entries[:samples]]
        pl.DataFrame({"sample_id": ids}).write_parquet(buffer / "buffer.parquet")
    inputs = {"policy": resolve(recipe.models.policy), "pool": str(pool)}
    if stage == "train-rl":
        inputs["buffer"] = str(buffer)
    with tempfile.TemporaryDirectory(dir=folder) as store:
        spec = StageSpec(
            stage=stage,
            store=store,
            run="bench",
            loop=1,
            phase=Phase.RL,
            output=f"runs/bench/loop-1/{stage}-rl",
            inputs=inputs,
            recipe=recipe,
        )
        return ProcessLauncher().run(make_job(spec)).manifest.seconds


def run(samples: int) -> None:
    stages: tuple[StageName, ...] = ("rollout", "train-rl")
    with tempfile.TemporaryDirectory() as name:
        for stage in stages:
            best = dict.fromkeys(PROCESSES, float("inf"))
            for _ in range(ROUNDS):  # in turns: what else the machine does falls on all
                for processes in PROCESSES:
                    took = seconds(stage, processes, samples, Path(name))
                    best[processes] = min(best[processes], took)
            figure(f"{stage} by one process", best[1], "s", f"{samples} samples, of this machine")
            for processes in PROCESSES[1:]:
                speed = best[1] / best[processes]
                figure(f"{stage} by {processes} processes", speed, "x", "against one")


if __name__ == "__main__":
    run(int(sys.argv[1]) if len(sys.argv) == 2 else 192)
