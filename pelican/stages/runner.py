"""How a stage runs: one process or many replicas, what it used, its manifest.

A stage itself knows neither store nor specification nor fingerprint: it gets inputs, its view of the
recipe and its job, and gives a result.

The stages themselves are a file each, such as `pelican/stages/train_rl.py`.
"""

from __future__ import annotations

import importlib
import resource
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from typing import Any

from pelican.base.process import all_gather_object, broadcast_object
from pelican.config import env
from pelican.config.recipe import Recipe
from pelican.config.stages import STAGES, Uses
from pelican.errors import InfrastructureError, UserInputError
from pelican.monitoring import exporter, record
from pelican.stages.fingerprint import (
    begin,
    identity_seen,
    made_by,
    making_at_begin,
    open_or_finished,
    stage_fingerprint,
)
from pelican.stages.job import StageJob
from pelican.stages.replace import drop_aside
from pelican.stages.stage import Inputs, Ranks, StageResult, StageSpec, stage_view
from pelican.storage import open_store
from pelican.storage.checkpoints import count_parameters
from pelican.storage.manifests import (
    Manifest,
    commit_manifest,
    describe_outputs,
    now,
    read_manifest,
)
from pelican.storage.store import ObjectStore

Arguments = tuple[Inputs, Recipe, StageJob]


def stage_arguments(
    store: ObjectStore,
    spec: StageSpec,
    rank: int = 0,
    world_size: int = 1,
    barrier: Callable[[], object] = lambda: None,
) -> Arguments:
    """What the stage of a specification is called with, by one process of `world_size`."""
    job = StageJob(store, spec.output, spec.stage, spec.loop, spec.phase, rank, world_size, barrier)
    return Inputs.in_store(store, spec.inputs), stage_view(spec.recipe, spec.stage, spec.phase), job


def commit(
    store: ObjectStore, spec: StageSpec, result: StageResult, identity: str, started: datetime
) -> Manifest:
    """Write the manifest over what lies below the stage's prefix.

    Args:
        store: where the stage's files lie.
        spec: the stage.
        result: what it counted, measured and noted.
        identity: its fingerprint.
        started: when it began.
    """
    manifest = Manifest(
        stage=spec.stage,
        run=spec.run,
        loop=spec.loop,
        phase=spec.phase,
        fingerprint=identity,
        recipe=spec.recipe.digest(),
        inputs=spec.inputs,
        outputs=describe_outputs(store, spec.output),
        counts=dict(result.counts),
        metrics=result.metrics,
        notes=result.notes,
        started=started,
        finished=now(),
        versions=made_by(),
        making=making_at_begin(store, spec),
    )
    commit_manifest(store, spec.output, manifest)
    drop_aside(store, spec.output)
    return manifest


# A stage whose processes are replicas: any number, of any speed, and one may be lost.
#
# They form no process group. They lease items of the job, and whoever finds all of them finished commits
# the stage, once.

_BEGIN_S = 300.0  # for replica 0 to clear what is of another recipe


def run_replica(store: ObjectStore, spec: StageSpec, module: Any) -> Manifest:
    """`work` of the stage's module in every replica; `finish`, with what `work` gave, where it commits."""
    rank = env.rank()
    inputs, config, job = stage_arguments(store, spec, rank, env.world_size())
    begun = begin(store, spec) if rank == 0 else _wait_for_begin(store, spec)
    if isinstance(begun, Manifest):
        return begun
    started = now()
    key = spec.output.replace("/", "-")
    telemetry = exporter.open_stage(spec.stage, spec.phase.value, key, None)
    with telemetry:
        record.began(spec.stage)
        plan = module.work(inputs, config, job)

    def committed() -> set[str]:
        return {"commit"} if _manifest_of(store, spec, begun) is not None else set()

    for lease in job.leases(["commit"], committed).each():
        result: StageResult = module.finish(inputs, config, job, plan)
        # Replicas may be lost, so this one's use stands for that of each.
        used = cpu_seconds_used() * job.world_size
        result.notes["resources"] = resources(spec, inputs, job.world_size, started, used)
        if not lease.claim.lost:
            record.finished(commit(store, spec, result, begun, started), job.world_size)
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
    spec: StageSpec, inputs: Inputs, processes: int, started: datetime, cpu_seconds: float
) -> dict[str, float]:
    """What a stage used, for its manifest.

    Args:
        spec: the stage.
        inputs: its inputs; a model that it computed with is counted.
        processes: of its job.
        started: when its last attempt began.
        cpu_seconds: of all its processes.

    Returns:
        `gpu_seconds` is wall clock times GPUs; all times are of the last attempt. `parameters` is
        missing where no model computed here, as with an endpoint.
    """
    gpus = gpus_held(spec, processes)
    wall = (now() - started).total_seconds()
    found: dict[str, float] = {
        "processes": processes,
        "gpus": gpus,
        "gpu_seconds": round(gpus * wall, 1),
        "cpu_seconds": round(cpu_seconds, 1),
    }
    row = STAGES[spec.stage]
    if row.uses is not Uses.CPU and row.computes in inputs:
        with suppress(UserInputError):  # weights of another format; the result stands without
            found["parameters"] = count_parameters(inputs[row.computes])
    return found


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
    inputs, config, job = stage_arguments(
        store, spec, ranks.rank, ranks.size, barrier=lambda: all_gather_object(None)
    )
    if store.remote:
        if env.local_rank() == 0:  # of an attempt that was cut off here
            shutil.rmtree(store.local_root(spec.output))
        job.barrier()
    started = now()
    key = spec.output.replace("/", "-")
    telemetry = exporter.open_stage(
        spec.stage, spec.phase.value, key, lambda: all_gather_object(None)
    )
    with telemetry:
        record.began(spec.stage)
        result: StageResult = module.run(inputs, config, job)
    counts: Counter[str] = Counter()
    for share in all_gather_object(dict(result.counts)):
        counts.update(share)
    result.counts = counts
    cpu_seconds = sum(all_gather_object(cpu_seconds_used()))
    result.notes["resources"] = resources(spec, inputs, ranks.size, started, cpu_seconds)
    manifest = None
    if ranks.rank == 0:
        store.upload(spec.output)
        manifest = commit(store, spec, result, begun, started)
        record.finished(manifest, ranks.size)
    committed: Manifest = broadcast_object(manifest)
    telemetry.finish()
    ranks.leave()
    return committed
