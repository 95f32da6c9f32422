"""How a stage runs: what it works with, one process or many replicas, what it used.

The stages themselves are a file each, such as `pelican/stages/train_rl.py`.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import resource
import shutil
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pelican.base.process import all_gather_object, broadcast_object
from pelican.config import env
from pelican.config.recipe import Recipe
from pelican.config.stages import STAGES, Uses, is_training
from pelican.data.corrections import NONE, Corrections, read_corrections
from pelican.data.tables import Quarantine
from pelican.errors import InfrastructureError
from pelican.monitoring import exporter, record
from pelican.stages.fingerprint import (
    begin,
    identity_seen,
    made_by,
    open_or_finished,
    stage_fingerprint,
)
from pelican.stages.stage import (
    CORRECTIONS,
    Ranks,
    StageSpec,
    resolve_input,
)
from pelican.storage import open_store
from pelican.storage.claims import CLAIMS, Claim, Claims
from pelican.storage.manifests import (
    Manifest,
    commit_manifest,
    describe_outputs,
    now,
    read_manifest,
)
from pelican.storage.store import ObjectStore

if TYPE_CHECKING:
    from pelican.rewards.judge import EndpointJudge

# What a stage works with: inputs, output files, counts, and how it tells of its progress.

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
            if env.local_rank() == 0:
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
        if env.local_rank() == 0:
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
        training = is_training(self.spec.stage)
        shared = self.rank == 0 or not training
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
        if self.world_size > 1 and not training:
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


def commit(context: StageContext, identity: str, started: datetime) -> Manifest:
    """Write the manifest over what lies below the stage's prefix."""
    spec, store = context.spec, context.store
    manifest = Manifest(
        stage=spec.stage,
        run=spec.run,
        loop=spec.loop,
        phase=spec.phase,
        fingerprint=identity,
        recipe=spec.recipe.digest(),
        inputs=spec.inputs,
        outputs=describe_outputs(store, spec.output),
        counts=dict(context.counts),
        metrics=context.metrics,
        notes=context.notes,
        started=started,
        finished=now(),
        versions=made_by(),
    )
    commit_manifest(store, spec.output, manifest)
    return manifest


# A stage whose processes are replicas: any number, of any speed, and one may be lost.
#
# They form no process group. Items are claimed through the store, and whoever finds all of them
# finished commits the stage, once.

_POLL_S = 1.0
_BEGIN_S = 300.0  # for replica 0 to clear what is of another recipe


def claims_of(context: StageContext) -> Claims:
    """The claims of one stage, by this replica."""
    return Claims(
        context.store,
        f"{context.spec.output}/{CLAIMS}",
        f"{socket.gethostname()}-{os.getpid()}-{context.rank}",
        attempt=env.attempt(),
        lease_s=env.lease_s(),
    )


@dataclass(frozen=True)
class Held:
    """An item that this replica has taken, under its claim until it is released."""

    name: str
    claim: Claim
    release: Callable[[], None]


class Items:
    """What the replicas of a stage share; `finished` names what is done, by whichever replica."""

    def __init__(
        self,
        context: StageContext,
        claims: Claims,
        names: list[str],
        finished: Callable[[], set[str]],
    ) -> None:
        # Each begins elsewhere, so that they seldom ask for the same item.
        start = len(names) * context.rank // max(1, context.world_size)
        self._order = names[start:] + names[:start]
        self._claims, self._finished = claims, finished
        self._mine: set[str] = set()

    def take(self) -> Held | None:
        """An item that is free, or whose replica is lost; None if there is none just now."""
        done = self._finished()
        for name in self._order:
            if name in done or name in self._mine:
                continue
            stack = ExitStack()
            claim = stack.enter_context(self._claims.hold(name))
            if claim is not None:
                done = self._finished()  # another may have finished it just before
            if claim is None or name in done:
                stack.close()
                continue
            self._mine.add(name)
            stack.callback(self._mine.discard, name)
            return Held(name, claim, stack.close)
        return None

    def wait(self) -> bool:
        """After `take` found nothing: False if all is finished, else True, after a short while."""
        if self._finished().issuperset(self._order):
            return False
        record.waited()
        time.sleep(min(_POLL_S, env.lease_s() / 10))
        return True


def claimed(items: Items) -> Iterator[tuple[str, Claim]]:
    """Items that this replica shall do, each under its claim; ends when all are finished.

    What others hold is waited for, and taken over if they are lost.
    """
    while True:
        held = items.take()
        if held is not None:
            try:
                yield held.name, held.claim
            finally:
                held.release()
        elif not items.wait():
            return


def run_replica(store: ObjectStore, spec: StageSpec, module: Any) -> Manifest:
    """`module.work(context)` in every replica; `module.finish(context, its result)` where it commits."""
    rank = env.rank()
    context = StageContext(spec, store, rank, env.world_size())
    begun = begin(store, spec) if rank == 0 else _wait_for_begin(store, spec)
    if isinstance(begun, Manifest):
        return begun
    started = now()
    key = spec.output.replace("/", "-")
    telemetry = exporter.open_stage(spec.stage, spec.phase.value, key, None)
    with telemetry:
        record.began(spec.stage)
        plan = module.work(context)
    claims = claims_of(context)

    def committed() -> set[str]:
        return {"commit"} if _manifest_of(store, spec, begun) is not None else set()

    for _, claim in claimed(Items(context, claims, ["commit"], committed)):
        context = StageContext(spec, store, rank, context.world_size)  # a turn lost left counts
        module.finish(context, plan)
        # Replicas may be lost, so this one's use stands for that of each.
        used = cpu_seconds_used() * context.world_size
        context.notes["resources"] = resources(spec, context.world_size, started, used)
        if not claim.lost:
            record.finished(commit(context, begun, started), context.world_size)
    manifest = _manifest_of(store, spec, begun)
    assert manifest is not None
    telemetry.finish()
    return manifest


def _manifest_of(store: ObjectStore, spec: StageSpec, identity: str) -> Manifest | None:
    """The stage's manifest, if it is there; the inputs are not hashed again."""
    manifest = read_manifest(store, spec.output)
    return manifest if manifest is not None and manifest.fingerprint == identity else None


def _wait_for_begin(store: ObjectStore, spec: StageSpec) -> str | Manifest:
    """Until replica 0 has cleared the prefix, or the stage is finished."""
    deadline = time.monotonic() + _BEGIN_S
    read: str | None = None
    while True:
        there = store.exists(spec.output)
        identity = identity_seen(store, spec) if there else None
        if identity is None and there:  # its inputs may be copies of another time: read them, once
            identity = read = read or stage_fingerprint(store, spec)
        begun = open_or_finished(store, spec, identity) if identity else None
        if begun is not None:
            return begun
        if time.monotonic() > deadline:
            raise InfrastructureError(
                f"replica 0 did not begin {spec.output} within {_BEGIN_S:.0f} s; it may be lost"
            )
        time.sleep(0.1)


# What a stage used, noted in its manifest: GPUs held, GPU and CPU time.


def cpu_seconds_used() -> float:
    """CPU time of this process and of its children that ended."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    found = [resource.getrusage(kind) for kind in kinds]
    return sum(usage.ru_utime + usage.ru_stime for usage in found)


def gpus_held(spec: StageSpec, processes: int) -> int:
    """GPUs of all processes of this stage; 0 without CUDA."""
    uses, torch = STAGES[spec.stage].uses, sys.modules.get("torch")
    if uses is Uses.CPU or torch is None or not torch.cuda.is_available():
        return 0
    config = spec.recipe.rollout
    vllm = uses is Uses.GENERATION and config.engine == "vllm"
    return processes * (config.vllm.tensor_parallel_size if vllm else 1)


def resources(
    spec: StageSpec, processes: int, started: datetime, cpu_seconds: float
) -> dict[str, float]:
    """`gpu_seconds` is wall clock times GPUs; all of the last attempt only."""
    gpus = gpus_held(spec, processes)
    wall = (now() - started).total_seconds()
    return {
        "processes": processes,
        "gpus": gpus,
        "gpu_seconds": round(gpus * wall, 1),
        "cpu_seconds": round(cpu_seconds, 1),
    }


# Runs one stage as one or several processes, and commits it.


def run_stage(spec: StageSpec) -> Manifest:
    """Run one stage unless its manifest is there already; called once by every rank of the job."""
    store = open_store(spec.store)
    module = importlib.import_module(STAGES[spec.stage].module)
    if STAGES[spec.stage].replicas:
        return run_replica(store, spec, module)
    ranks = Ranks()
    begun: str | Manifest = broadcast_object(begin(store, spec) if ranks.rank == 0 else None)
    if isinstance(begun, Manifest):
        ranks.leave()
        return begun
    context = StageContext(
        spec, store, ranks.rank, ranks.size, barrier=lambda: all_gather_object(None)
    )
    if store.remote:
        if env.local_rank() == 0:  # of an attempt that was cut off here
            shutil.rmtree(store.local_root(spec.output))
        context.barrier()
    started = now()
    key = spec.output.replace("/", "-")
    telemetry = exporter.open_stage(
        spec.stage, spec.phase.value, key, lambda: all_gather_object(None)
    )
    with telemetry:
        record.began(spec.stage)
        module.run(context)
    counts: Counter[str] = Counter()
    for share in all_gather_object(dict(context.counts)):
        counts.update(share)
    context.counts = counts
    cpu_seconds = sum(all_gather_object(cpu_seconds_used()))
    context.notes["resources"] = resources(spec, ranks.size, started, cpu_seconds)
    manifest = None
    if ranks.rank == 0:
        store.upload(spec.output)
        manifest = commit(context, begun, started)
        record.finished(manifest, ranks.size)
    committed: Manifest = broadcast_object(manifest)
    telemetry.finish()
    ranks.leave()
    return committed
