"""`pelican cancel`, `logs`, `reap` and `gc`: runs that others drive, and what they leave."""

from __future__ import annotations

import difflib
import json
from pathlib import Path

from pelican.config import env
from pelican.errors import UserInputError
from pelican.runs.layout import CANCELLED, require_run, run_prefix
from pelican.storage import open_store
from pelican.storage.claims import release
from pelican.storage.manifests import now
from pelican.storage.store import ObjectStore


def cancel_run(run: str, given: str | None) -> None:
    """Cancel a run whose store is S3: mark it as cancelled, end its Kubeflow run and delete its
    jobs.

    Raises:
        UserInputError: There is no such run, or the store is a folder: Ctrl-C in `pelican submit` ends
            its runs.
    """
    store = open_store(env.store_uri(given))
    require_run(store, run)
    if not store.remote:
        raise UserInputError(
            f"run {run!r} is driven by processes of a machine: end `pelican submit` with Ctrl-C"
        )
    mark = {"cancelled": now().isoformat()}
    store.write(f"{run_prefix(run)}/{CANCELLED}", json.dumps(mark).encode())
    from pelican.launch.kfp import Kfp, kfp_run_of
    from pelican.launch.kube import Kube
    from pelican.launch.podspec import Target
    from pelican.launch.pytorchjob import end_jobs

    run_id = kfp_run_of(store, run)
    if run_id is not None:
        Kfp().terminate(run_id)
    names = end_jobs(Kube(Target.from_environment().namespace), run)
    release(store, run_prefix(run))
    print(f"run {run} is cancelled; {len(names)} jobs deleted; the same command continues it")


def print_logs(run: str, stage: str | None, given: str | None) -> None:
    """Print the log of a stage (`loop-1-train-rl-rl`, or `train-rl` for the newest), or list them."""
    store = open_store(env.store_uri(given))
    require_run(store, run)
    found = _list_logs(store, run)
    if stage is None:
        for name in found:
            print(name)
        return
    matching = [name for name in found if name == stage or f"-{stage}-" in f"{name}-"]
    if not matching:
        raise UserInputError(
            f"run {run!r} has no log of {stage!r}{_suggest(stage, found)}; `pelican logs {run}` lists"
            " all"
        )
    text = store.read(f"{run_prefix(run)}/logs/{matching[-1]}.log").decode("utf-8", "replace")
    print(text, end="" if text.endswith("\n") else "\n")


def _suggest(stage: str, known: list[str]) -> str:
    close = difflib.get_close_matches(stage, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def _list_logs(store: ObjectStore, run: str) -> list[str]:
    prefix = f"{run_prefix(run)}/logs"
    names = [key.removeprefix(f"{prefix}/") for key in store.keys(prefix)]
    return sorted(name.removesuffix(".log") for name in names if name.endswith(".log"))


def reap_jobs(given: str | None, grace_minutes: float, dry_run: bool) -> None:
    """Delete the jobs that nobody follows any more, and those of runs that have ended."""
    if grace_minutes < 0:
        raise UserInputError(f"--grace is {grace_minutes:g}; it takes 0 or more minutes")
    from pelican.launch.kube import Kube
    from pelican.launch.podspec import Target
    from pelican.launch.pytorchjob import reap_jobs

    uri = env.store_uri(given)
    store = open_store(uri) if uri.startswith("s3://") else None
    kube = Kube(Target.from_environment().namespace)
    for name, why in reap_jobs(kube, store, grace_minutes * 60, dry_run=dry_run):
        print(f"{'would delete' if dry_run else 'deleted'} {name}: {why}", flush=True)


def collect_garbage(given: str | None, days: float, dry_run: bool) -> None:
    """Delete what no manifest, run or promotion refers to."""
    from pelican.registry.garbage import collect

    if days < 0:
        raise UserInputError(f"--days is {days:g}; it takes 0 or more days")
    store = open_store(env.store_uri(given))
    if not store.remote and not Path(store.uri).is_dir():
        raise UserInputError(f"there is no store at {store.uri}; give --store or PELICAN_STORE")
    if not dry_run:
        store.probe()
    freed = 0
    for key, size, why in collect(store, days * 86400, dry_run=dry_run):
        freed += size
        print(f"{'would delete' if dry_run else 'deleted'} {key} ({size / 1e6:.1f} MB): {why}")
    print(f"{freed / 1e6:.1f} MB {'could be ' if dry_run else ''}freed", flush=True)
