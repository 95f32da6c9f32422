"""Jobs whose run is gone: a launcher that was killed can't delete its own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime

from pelican.launch.jobspec import FOLLOWED, KFP_RUN, MANAGED, RUN, STORE
from pelican.launch.kube import Kube
from pelican.launch.podspec import Tree
from pelican.runs import CANCELLED, RECIPE, run_prefix
from pelican.storage.objects import ObjectStore


def reap_jobs(
    kube: Kube, store: ObjectStore | None, grace_s: float, *, dry_run: bool = False
) -> Iterator[tuple[str, str]]:
    """Delete what nobody needs; yields name and reason. Finished jobs are left to their TTL.

    A launcher notes once a minute that it follows its job; a retried step adopts it, so a job is
    orphaned only once nobody has for `grace_s`. Kubeflow is asked if KFP_HOST is set; the store says
    nothing about jobs of another store.
    """
    for job in kube.jobs(f"{MANAGED}=pelican"):
        if _finished(job) or "deletionTimestamp" in job["metadata"]:
            continue
        why = _orphaned(job, store, grace_s)
        if why is None:
            continue
        if not dry_run:
            kube.delete_job(job["metadata"]["name"], job["metadata"]["uid"])
        yield job["metadata"]["name"], why


def _finished(job: Tree) -> bool:
    conditions = job.get("status", {}).get("conditions", [])
    return any(c["type"] in ("Succeeded", "Failed") and c["status"] == "True" for c in conditions)


def _orphaned(job: Tree, store: ObjectStore | None, grace_s: float) -> str | None:
    labels = job["metadata"].get("labels", {})
    annotations = job["metadata"].get("annotations", {})
    run, kfp_run = labels.get(RUN), labels.get(KFP_RUN)
    if store is not None and run and annotations.get(STORE) == store.uri:
        if store.exists(f"{run_prefix(run)}/{CANCELLED}"):
            return f"run {run} was cancelled"
        if not store.exists(f"{run_prefix(run)}/{RECIPE}"):
            return f"run {run} is not in the store any more"
    if kfp_run and os.environ.get("KFP_HOST"):
        from pelican.launch.kfp_api import ENDED, Kfp

        state = Kfp().state(kfp_run)
        if state is None or state in ENDED:
            return f"Kubeflow's run {kfp_run} is {state or 'gone'}"
    since = annotations.get(FOLLOWED) or job["metadata"]["creationTimestamp"]
    age = (datetime.now(UTC) - datetime.fromisoformat(since)).total_seconds()
    return f"nobody has followed it for {age / 60:.0f} min" if age > grace_s else None
