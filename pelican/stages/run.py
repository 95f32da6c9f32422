"""Runs one stage as one or several processes, and commits it."""

from __future__ import annotations

import importlib
import shutil
from collections import Counter

from pelican.collectives import from_all, from_first
from pelican.stages.commit import begin, commit
from pelican.stages.context import StageContext, local_rank
from pelican.stages.ranks import Ranks
from pelican.stages.replicas import run_replica
from pelican.stages.resources import cpu_seconds_used, resources
from pelican.stages.spec import StageSpec
from pelican.storage.manifests import Manifest, now
from pelican.storage.objects import open_store
from pelican.telemetry import exporter, record


def run_stage(spec: StageSpec) -> Manifest:
    """Run one stage unless its manifest is there already; called once by every rank of the job."""
    store = open_store(spec.store)
    module = importlib.import_module(f"pelican.stages.{spec.stage.replace('-', '_')}")
    if hasattr(module, "finish"):
        return run_replica(store, spec, module)
    ranks = Ranks()
    begun: str | Manifest = from_first(begin(store, spec) if ranks.rank == 0 else None)
    if isinstance(begun, Manifest):
        ranks.leave()
        return begun
    context = StageContext(spec, store, ranks.rank, ranks.size, barrier=lambda: from_all(None))
    if store.remote:
        if local_rank() == 0:  # of an attempt that was cut off here
            shutil.rmtree(store.local_root(spec.output))
        context.barrier()
    started = now()
    key = spec.output.replace("/", "-")
    telemetry = exporter.open_stage(spec.stage, spec.phase.value, key, lambda: from_all(None))
    with telemetry:
        record.began(spec.stage)
        module.run(context)
    counts: Counter[str] = Counter()
    for share in from_all(dict(context.counts)):
        counts.update(share)
    context.counts = counts
    cpu_seconds = sum(from_all(cpu_seconds_used()))
    context.notes["resources"] = resources(spec, ranks.size, started, cpu_seconds)
    manifest = None
    if ranks.rank == 0:
        store.upload(spec.output)
        manifest = commit(context, begun, started)
        record.finished(manifest, ranks.size)
    committed: Manifest = from_first(manifest)
    telemetry.finish()
    ranks.leave()
    return committed
