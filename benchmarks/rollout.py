"""The rollout stage against the bare engine on the same prompts: rollouts per second.

Both with the shipped base on the shipped scenes, its engine already loaded; so the difference is
reading and checking the pool, claims, Parquet shards and progress: a third of a second once, and some
0.15 s a shard, which a small stage feels. The size is that of a phase of `tiny`.
"""

from __future__ import annotations

import contextlib
import io
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.measure import at_least, figure, in_turns
from benchmarks.stage import stage_spec
from pelican.config.env import resolve
from pelican.config.presets import find_recipe
from pelican.config.recipe import Recipe
from pelican.data.entries import Entry
from pelican.data.pool import PoolIndex, read_index
from pelican.data.select import loop_samples
from pelican.data.tables import Quarantine
from pelican.engines import open_engine
from pelican.records import Phase, Sample
from pelican.stages import rollout
from pelican.stages.runner import run_stage


class Setting:
    """Samples of the small recipe, its engine, warm, and the stage that uses it."""

    def __init__(self, samples: int, *sets: str) -> None:
        self.recipe: Recipe = find_recipe("tiny", [f"data.samples_per_loop={samples}", *sets])
        self.pool = Path(resolve(self.recipe.data.train))
        self.policy = Path(resolve(self.recipe.models.policy))
        self.engine: Any = open_engine(self.recipe.rollout, self.recipe.model, self.policy)
        self.close = self.engine.close
        # The stage opens and closes its engine; here it gets the warm one, and leaves it open.
        setattr(rollout, "open_engine", lambda *_: self.engine)  # noqa: B010
        setattr(self.engine, "close", lambda: None)  # noqa: B010
        self.index: PoolIndex = read_index(self.pool)
        self.entries: Sequence[Entry] = loop_samples(self.index, self.recipe, 1, Phase.RL).entries
        self.tries = self.recipe.rollout.samples
        self.seed = rollout.phase_seed(self.recipe.seed, 1, Phase.RL)
        shard = self.recipe.rollout.shard_size
        self.size = f"{len(self.entries)} samples x {self.tries} in shards of {shard}"

    def loaded(self) -> list[Sample]:
        pixels = self.recipe.data.max_pixels
        return list(self.index.load(self.entries, max_pixels=pixels, quarantine=Quarantine()))

    def stage(self) -> None:
        self.store = tempfile.TemporaryDirectory()  # the one before is removed with this
        spec = stage_spec("rollout", self.recipe, Path(self.store.name))
        with contextlib.redirect_stdout(io.StringIO()):
            run_stage(spec)


def run(samples: int, times: int = 2) -> None:
    setting = Setting(samples)
    tokens = [0]

    def bare() -> None:
        sampling = setting.recipe.rollout.sampling
        groups = setting.engine.generate(setting.loaded(), sampling, setting.tries, setting.seed)
        tokens[0] = sum(r.tokens for group in groups for r in group)

    bare()  # images are encoded once, into a cache that both use
    cpu = {"bare": float("inf"), "stage": float("inf")}

    def timed(name: str, work: Callable[[], None]) -> Callable[[], None]:
        def run_it() -> None:
            began = time.process_time()
            work()
            cpu[name] = min(cpu[name], time.process_time() - began)

        return run_it

    fast, staged = in_turns(times, timed("bare", bare), timed("stage", setting.stage))
    rollouts = len(setting.entries) * setting.tries
    at_least("rollout stage against the bare engine", fast / staged, "x", 0.95, setting.size)
    figure("the same in processor time", cpu["bare"] / cpu["stage"], "x", setting.size)
    figure("bare engine", rollouts / fast, "rollouts/s", "of this machine")
    figure("bare engine", tokens[0] / fast, "tokens/s", "of this machine")


if __name__ == "__main__":
    run(int(sys.argv[1]) if len(sys.argv) == 2 else 480)
