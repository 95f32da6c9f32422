"""What a stage works with: inputs, output files, counts, and how it tells of its progress."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pelican.data.corrections import NONE, Corrections, read_corrections
from pelican.data.quarantine import Quarantine
from pelican.recipe import Recipe
from pelican.stages.inputs import CORRECTIONS, resolve_input
from pelican.stages.spec import StageSpec
from pelican.storage.objects import ObjectStore
from pelican.telemetry import record

if TYPE_CHECKING:
    from pelican.rewards.judge import EndpointJudge

PROGRESS = "::progress "


@dataclass
class StageContext:
    """What a stage's `run(context)` works with.

    In a job of several processes every rank runs the stage on its share (`rank`, `world_size`);
    counts are summed over the ranks, metrics and notes are rank 0's.
    """

    spec: StageSpec
    store: ObjectStore
    rank: int = 0
    world_size: int = 1
    counts: Counter[str] = field(default_factory=Counter)
    metrics: dict[str, float] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)
    barrier: Callable[[], object] = lambda: None
    _last_progress: float = 0.0

    @property
    def recipe(self) -> Recipe:
        return self.spec.recipe

    def input(self, name: str) -> Path:
        """Local path of an input."""
        return resolve_input(self.store, self.spec.inputs[name])

    def corrections(self) -> Corrections:
        """A person's corrections of the input `pool`; none if the recipe names no file."""
        return (
            read_corrections(self.input(CORRECTIONS)) if CORRECTIONS in self.spec.inputs else NONE
        )

    def output(self, name: str = "") -> Path:
        """Local path for an output file; its folder exists. `work/…` is kept but not committed."""
        path = Path(self.store.local_root(self.spec.output)) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def put(self, name: str) -> None:
        """The output file `name` is whole: hand it to the store."""
        self.store.put(f"{self.spec.output}/{name}", self.output(name))

    def restored(self, name: str) -> Path:
        """`output(name)`, a folder of `work/`, with what an earlier attempt kept, on any machine."""
        if self.store.remote:
            if local_rank() == 0:
                self.store.restore(f"{self.spec.output}/{name}")
            self.barrier()
        return self.output(name)

    def keep(self, name: str, last: tuple[str, ...]) -> None:
        """Every rank: the folder `name` is whole, and the next attempt may find it on any machine.

        Of the folders beside it none is kept. The files `last`, rank 0's, mark it as whole.
        """
        if not self.store.remote:
            return
        prefix = f"{self.spec.output}/{name}"
        self.barrier()
        if local_rank() == 0:
            self.store.upload(prefix, skip=last)
        self.barrier()
        if self.rank == 0:
            for file in last:
                self.store.put(f"{prefix}/{file}", self.output(name) / file)
            above = prefix.rpartition("/")[0]
            depth = above.count("/") + 1
            for other in {key.split("/")[depth] for key in self.store.keys(above)}:
                if f"{above}/{other}" != prefix:
                    self.store.delete(f"{above}/{other}")

    def progress(self, done: int, total: int, unit: str, **info: float) -> None:
        """Report progress, at most twice a second; the launcher that follows the log shows it.

        Each rank reports its share, which the launcher sums; training is reported by rank 0.
        """
        shared = self.rank == 0 or not self.spec.stage.startswith("train")
        record.progressed(done, total, counted=shared)
        if not shared:
            return
        if done != total and time.monotonic() - self._last_progress < 0.5:
            return
        self._last_progress = time.monotonic()
        event: dict[str, object] = {
            "stage": self.spec.stage,
            "loop": self.spec.loop,
            "phase": self.spec.phase,
        }
        event |= {"done": done, "total": total, "unit": unit, **info}
        if self.world_size > 1 and not self.spec.stage.startswith("train"):
            event["rank"] = self.rank
        print(PROGRESS + json.dumps(event), file=sys.stdout, flush=True)

    def left_out(self, quarantine: Quarantine, of: Collection[str] | None = None) -> None:
        """Say in the log which samples (`of` these) are done without, and why; a stage counts them."""
        for row in quarantine.rows:
            if of is None or row.id in of:
                print(f"left out: {row}", flush=True)

    def judged(self, judge: EndpointJudge | None) -> None:
        """Count what the judge was asked, and keep how far its votes agreed."""
        if judge is None:
            return
        self.counts.update(judge.tally.counts())
        if judge.tally.mean_agreement is not None:
            self.metric("judge_agreement", judge.tally.mean_agreement)

    def metric(self, name: str, value: float) -> None:
        """Record a number of the manifest. Kubeflow refuses NaN, so only finite ones are kept."""
        if math.isfinite(value):
            self.metrics[name] = float(value)


def local_rank() -> int:
    """This process's number on its machine."""
    return int(os.environ.get("LOCAL_RANK", "0"))
