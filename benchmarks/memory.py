"""Host memory of a long train-rl: flat once it is warm.

The real stage, with the shipped base on the shipped pool, its steps as small as they get, in a
process of its own whose anonymous memory is read after its progress lines. Two ways: `tiny`'s own, on a
buffer of its size; and the trainers at scale on the whole pool, whose images are read when needed, with
a cache that is full long before memory counts as warm, so that it would show what they leave behind.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from benchmarks.measure import at_most, figure
from benchmarks.stage import stage_spec, write_buffer
from pelican.config.env import IMAGE_CACHE_MB
from pelican.config.presets import find_recipe
from pelican.monitoring.progress import PROGRESS

# Overrides, and samples of the buffer. `tiny` keeps the features of all images of its buffer.
WAYS: dict[str, tuple[list[str], int | None]] = {
    "train-rl of tiny": ([], 300),
    "train-rl at scale": (["model.cache_vision=false parallel.micro_tokens=4096"], None),
}
CACHE_MB = 2  # of encoded images; those of 2,000 samples have about 30
WARM = 0.2  # the share of steps after which memory shall be flat
SMALL = (
    "rl.prompts_per_step=1 rl.group_size=2 rl.sampling.max_tokens=4 rl.oversample=1 rl.refill=0"
    " rl.processes=1 rl.stop.threshold=1 rl.save_steps=250"
)


def anonymous_mb(pid: int) -> float:
    """What a process holds of its own, in MB; the kernel may take pages of files back at any time."""
    status = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) / 1024


def train(
    steps: int, sets: list[str], samples: int | None, folder: Path
) -> list[tuple[int, float]]:
    """(step, MB) of one training."""
    recipe = find_recipe("tiny", [SMALL, f"rl.max_steps={steps} rl.min_steps={steps}", *sets])
    buffer = write_buffer(folder / "buffer", recipe, samples)
    spec = stage_spec("train-rl", recipe, folder / "store", buffer)
    (folder / "spec.json").write_text(spec.model_dump_json())
    command = [sys.executable, "-m", "pelican", "stage", "train-rl", "--spec"]
    found: list[tuple[int, float]] = []
    with (
        (folder / "errors").open("w+") as errors,
        subprocess.Popen(
            [*command, str(folder / "spec.json")],
            env={
                **os.environ,
                "OMP_NUM_THREADS": "1",
                "PELICAN_CACHE": str(folder / "cache"),
                IMAGE_CACHE_MB: str(CACHE_MB),
            },
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        ) as stage,
    ):
        assert stage.stdout is not None
        for line in stage.stdout:
            if line.startswith(PROGRESS):
                step = int(json.loads(line.removeprefix(PROGRESS))["done"])
                found.append((step, anonymous_mb(stage.pid)))
                print(step, round(found[-1][1], 1), file=sys.stderr, flush=True)
        if stage.wait():
            errors.seek(0)
            raise RuntimeError(errors.read()[-2000:])
    return found


def growth(found: list[tuple[int, float]], steps: int) -> tuple[float, float]:
    """The median memory in MB of a tenth of the steps after warming up, and the last tenth's ratio
    to it.
    """

    def over(start: float, stop: float) -> float:
        return median(mb for step, mb in found if start * steps <= step < stop * steps + 1)

    warm = over(WARM, WARM + 0.1)
    return warm, over(0.9, 1.0) / warm


def run(steps: int, ways: Sequence[str]) -> None:
    for name in ways:
        sets, samples = WAYS[name]
        with tempfile.TemporaryDirectory() as folder:
            found = train(steps, sets, samples, Path(folder))
        warm, ratio = growth(found, steps)
        at_most(f"{name}: memory at the end against warm", ratio, "x", 1.05, f"{steps} steps")
        figure(f"{name}: memory when warm", warm, "MB", f"after {WARM:.0%} of the steps")
        most = max(mb for step, mb in found if step >= WARM * steps)
        figure(f"{name}: largest when warm", most, "MB")


if __name__ == "__main__":
    run(int(sys.argv[1]) if len(sys.argv) > 1 else 2000, sys.argv[2:] or list(WAYS))
