"""The rollout stage against the bare engine on the same prompts: rollouts per second.

Both with the shipped base on the shipped scenes, its engine already loaded; so the difference is
reading and checking the pool, claims, Parquet shards and progress.
"""

from __future__ import annotations

import contextlib
import io
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.measure import at_least, figure, in_turns
from benchmarks.stage import stage_spec
from pelican.data.pool import read_index
from pelican.data.quarantine import Quarantine
from pelican.data.select import loop_samples
from pelican.engines import open_engine
from pelican.recipes import find_recipe
from pelican.records import Phase
from pelican.settings import resolve
from pelican.stages import rollout
from pelican.stages.run import run_stage


def run(samples: int, times: int = 4) -> None:
    recipe = find_recipe("tiny", [f"data.samples_per_loop={samples}", "rollout.shard_size=32"])
    pool, policy = Path(resolve(recipe.data.train)), Path(resolve(recipe.models.policy))
    engine: Any = open_engine(recipe.rollout, recipe.model, policy)
    index = read_index(pool)
    entries = loop_samples(index, recipe, 1, Phase.RL)
    tries = recipe.rollout.samples
    seed = rollout.phase_seed(recipe.seed, 1, Phase.RL)
    tokens = [0]

    def bare() -> None:
        loaded = list(
            index.load(entries, max_pixels=recipe.data.max_pixels, quarantine=Quarantine())
        )
        groups = engine.generate(loaded, recipe.rollout.sampling, tries, seed)
        tokens[0] = sum(r.tokens for group in groups for r in group)

    rollout.open_engine = lambda *_: engine  # type: ignore[assignment]
    engine.close = lambda: None
    folders: list[str] = []

    def stage() -> None:
        folders.append(tempfile.mkdtemp())
        spec = stage_spec("rollout", recipe, Path(folders[-1]))
        with contextlib.redirect_stdout(io.StringIO()):
            run_stage(spec)

    bare()  # images are encoded once, into a cache that both use
    cpu = {"bare": float("inf"), "stage": float("inf")}

    def timed(name: str, work: Callable[[], None]) -> Callable[[], None]:
        def run_it() -> None:
            began = time.process_time()
            work()
            cpu[name] = min(cpu[name], time.process_time() - began)

        return run_it

    fast, staged = in_turns(times, timed("bare", bare), timed("stage", stage))
    size = f"{len(entries)} samples x {tries}"
    at_least("rollout stage against the bare engine", fast / staged, "x", 0.95, size)
    figure("the same in processor time", cpu["bare"] / cpu["stage"], "x", size)
    figure("bare engine", len(entries) * tries / fast, "rollouts/s", "of this machine")
    figure("bare engine", tokens[0] / fast, "tokens/s", "of this machine")


if __name__ == "__main__":
    run(int(sys.argv[1]) if len(sys.argv) == 2 else 96)
