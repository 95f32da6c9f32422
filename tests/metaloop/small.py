"""The metaloop on the shipped models and samples at its smallest: a few steps of everything."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

RUN = "small"
OVERRIDES = " ".join(
    [
        "loops=1",
        "data.evaluation=samples/dev",
        "data.samples_per_loop=48",
        "rollout.workers=1",
        "rollout.shard_size=24",
        "rl.max_steps=3",
        "rl.min_steps=1",
        "rl.save_steps=1",
        "rl.prompts_per_step=8",
        "rl.processes=2",
        "sft.max_steps=4",
        "sft.save_steps=1",
        "sft.batch_size=16",
        "sft.processes=1",
        "distill.max_rows=48",
        "distill.tries=2",
        "eval.bootstrap=200",
    ]
)
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def command(store: Path) -> list[str]:
    """`pelican submit` of the small run."""
    call = [sys.executable, "-m", "pelican", "submit", "--run", RUN, "--store", str(store)]
    return [*call, "--set", OVERRIDES]


def submit(store: Path) -> subprocess.CompletedProcess[str]:
    """The run, or what is left of it, to its end."""
    return subprocess.run(command(store), capture_output=True, text=True, env=ENVIRONMENT)
