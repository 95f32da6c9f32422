"""The launcher of a cluster: a stage as a PyTorchJob of the training operator (v1).

The job's name follows from run, loop and stage. Whoever launches the stage next finds the job: of
the same digest it is adopted, so that the death of a launcher costs nothing.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from pelican.errors import InfrastructureError, PelicanError, UserInputError
from pelican.launch.base import CancelledError, Job, JobResult, Launcher, OnProgress, StageError
from pelican.launch.explain import PreemptedError, failure, waiting
from pelican.launch.joblog import JobLog
from pelican.launch.jobspec import (
    ATTEMPT,
    DIGEST,
    FOLLOWED,
    MANAGED,
    RUN,
    build_job,
    least_pods,
    of_attempt,
    processes_of,
)
from pelican.launch.kube import Absent, Conflict, Kube
from pelican.launch.podspec import Tree
from pelican.launch.target import Target
from pelican.runs import CANCELLED, run_prefix
from pelican.stages.commit import finished_manifest
from pelican.storage.objects import ObjectStore, open_store
from pelican.telemetry.events import emit

POLL_S = 1.0
FOLLOWED_S = 60.0  # between two notes on the job that somebody follows it
EXPLAIN_S = 3.0  # a pod that has not started after this long is asked why
GONE_S = 10.0  # for another launcher to make the job again, or for a deletion to end
MOST_PREEMPTIONS = 20


class StuckError(InfrastructureError):
    """The job could not start within its limit; a new one would wait as long."""


@dataclass
class _Followed:
    """One attempt: the job as it was made or found."""

    name: str
    uid: str
    attempt: int
    told: str = ""
    waits_since: float | None = None
    noted: float = field(default_factory=time.monotonic)


class PyTorchJobLauncher(Launcher):
    """Makes or adopts the stage's job, follows it, and makes new attempts where that may help."""

    def __init__(self, kube: Kube | None = None, target: Target | None = None) -> None:
        self._target = target or Target.from_environment()
        self._kube = kube or Kube(self._target.namespace)
        self._cancelled = False
        self._current: _Followed | None = None

    def run(self, job: Job, on_progress: OnProgress | None = None) -> JobResult:
        store = open_store(job.spec.store)
        if not store.remote:
            raise UserInputError(
                f"the store {store.uri} is a folder, which pods cannot see;"
                " set PELICAN_STORE=s3://bucket/prefix"
            )
        started = time.monotonic()
        tree = self._describe(store, job)
        log = JobLog(store, job.logs, on_progress)
        attempt, preempted = 1, 0
        most = (job.spec.recipe.resources.of(job.spec.stage).backoff or 0) + 1
        try:
            while True:
                self._check_wanted(store, job)
                self._current = self._claim(tree, attempt, log)
                attempt = self._current.attempt
                error = self._follow(store, job, self._current, log)
                if error is None:
                    break
                if isinstance(error, PreemptedError):
                    preempted += 1
                else:
                    attempt += 1
                again = isinstance(error, InfrastructureError) and not isinstance(error, StuckError)
                if not again or attempt > most or preempted > MOST_PREEMPTIONS:
                    self._leave(self._current)
                    raise error
                self._kube.delete_job(self._current.name, self._current.uid)
                log.note(f"attempt {attempt} of {most} after: {error}")
                emit("event", {"event": "again", **_where(job), "message": str(error)})
        finally:
            log.close()
        manifest = finished_manifest(store, job.spec)
        if manifest is None:
            raise StageError(f"{job.name} ended well but left no manifest; see {job.logs}")
        return JobResult(manifest, time.monotonic() - started, attempt + preempted)

    def cancel(self) -> None:
        self._cancelled = True
        if self._current is not None:
            self._kube.delete_job(self._current.name, self._current.uid)

    def _leave(self, current: _Followed) -> None:
        """A job that failed stays until its TTL, for whoever else follows it; one that waits goes."""
        try:
            ended = _ended(self._kube.job(current.name))
        except Absent:
            return
        if ended is None:
            self._kube.delete_job(current.name, current.uid)

    def _describe(self, store: ObjectStore, job: Job) -> Tree:
        """The job's tree; its specification lies in the store, for the pods to read."""
        from pelican.storage.s3 import S3Store

        assert isinstance(store, S3Store)
        key = f"runs/{job.spec.run}/logs/{job.label}.spec.json"
        store.write(key, job.spec.model_dump_json(indent=1).encode())
        return build_job(job, self._target, f"{store.uri}/{key}", store.settings.variables())

    def _claim(self, tree: Tree, attempt: int, log: JobLog) -> _Followed:
        """Make the job, or adopt the one that another launcher made of the same digest."""
        name, digest = tree["metadata"]["name"], tree["metadata"]["annotations"][DIGEST]
        now = datetime.now(UTC).isoformat(timespec="seconds")
        wanted = of_attempt(tree, attempt, now)
        deadline = time.monotonic() + 120.0
        while time.monotonic() < deadline:
            try:
                made = self._kube.create_job(wanted)
                log.note(f"job {name}, attempt {attempt}")
                return _Followed(name, made["metadata"]["uid"], attempt)
            except Conflict:
                pass
            try:
                found = self._kube.job(name)
            except Absent:
                continue
            meta = found["metadata"]
            if "deletionTimestamp" in meta:
                time.sleep(POLL_S)
                continue
            theirs = meta.get("annotations", {}).get(DIGEST)
            ended = _ended(found)
            if theirs == digest and ended is None:
                log.note(f"job {name} is there already: adopted")
                number = int(meta["annotations"].get(ATTEMPT, "1"))
                return _Followed(name, meta["uid"], number)
            if ended is None:
                run = meta.get("labels", {}).get(RUN, "?")
                raise UserInputError(
                    f"a job {name!r} of another specification is running (run {run!r}, digest"
                    f" {theirs}, wanted {digest}); end it with `pelican cancel {run}`, or choose"
                    " another run name"
                )
            self._kube.delete_job(name, meta["uid"])  # of before; its result is not the wanted one
        raise InfrastructureError(f"the job {name!r} is being deleted, but does not go")

    def _follow(
        self, store: ObjectStore, job: Job, current: _Followed, log: JobLog
    ) -> PelicanError | None:
        """Until the job has ended: None if it succeeded, else why not."""
        while True:
            if self._cancelled:
                raise CancelledError(f"{job.name} was stopped")
            found = self._find(store, job, current)
            pods = self._kube.pods(current.name)
            if pods:
                log.follow(self._kube, pods[0])
            ended = _ended(found)
            if ended == "Succeeded":
                log.finish()
                return None
            if ended == "Failed":
                log.finish()
                log.failed(self._kube, pods)
                return failure(current.name, found, pods)
            stuck = self._explain(job, current, pods)
            if stuck is not None:
                return stuck
            if time.monotonic() - current.noted > FOLLOWED_S:
                current.noted = time.monotonic()
                now = datetime.now(UTC).isoformat(timespec="seconds")
                with suppress(Absent):  # the next look tells what that means
                    self._kube.annotate_job(current.name, {FOLLOWED: now})
                log.keep()
            time.sleep(POLL_S)

    def _find(self, store: ObjectStore, job: Job, current: _Followed) -> Tree:
        """The job; another launcher of the stage may have made it again. Raises CancelledError."""
        deadline = time.monotonic() + GONE_S
        while True:
            try:
                found = self._kube.job(current.name)
                if found["metadata"]["uid"] == current.uid:
                    return found
                current.uid = found["metadata"]["uid"]
                annotations = found["metadata"].get("annotations", {})
                current.attempt = int(annotations.get(ATTEMPT, current.attempt))
                return found
            except Absent:
                self._check_wanted(store, job)
                if time.monotonic() > deadline:
                    raise CancelledError(
                        f"the job {current.name!r} was deleted; the same command runs it again"
                    ) from None
                time.sleep(POLL_S)

    def _check_wanted(self, store: ObjectStore, job: Job) -> None:
        if self._cancelled or store.exists(f"{run_prefix(job.spec.run)}/{CANCELLED}"):
            raise CancelledError(f"run {job.spec.run} was cancelled; `pelican submit` continues it")

    def _explain(self, job: Job, current: _Followed, pods: list[Tree]) -> PelicanError | None:
        """Tell why the job waits; an error once it has waited too long."""
        resources = job.spec.recipe.resources.of(job.spec.stage)
        wanted = min(processes_of(job, resources)[0], least_pods(job, resources))
        started = [p for p in pods if p.get("status", {}).get("phase") not in ("Pending", None)]
        if len(started) >= wanted:
            current.waits_since = None
            return None
        now = time.monotonic()
        current.waits_since = current.waits_since or now
        waited = now - current.waits_since
        if waited < EXPLAIN_S:
            return None
        names = {current.name, *(pod["metadata"]["name"] for pod in pods)}
        reason = waiting(pods, self._kube.warnings(names), resources)
        if reason is None:
            if waited > (resources.pending_s or 0):
                return StuckError(f"{current.name} has not started after {waited:.0f} s")
            return None
        if reason.message != current.told:
            current.told = reason.message
            emit("event", {"event": "waiting", **_where(job), "message": reason.message})
        if reason.limit_s is not None and waited > reason.limit_s:
            return UserInputError(f"{current.name}: {reason.message}")
        if waited > (resources.pending_s or 0):
            return StuckError(f"{current.name} waited {waited:.0f} s: {reason.message}")
        return None


def end_jobs(kube: Kube, run: str, wait_s: float = 60.0) -> list[str]:
    """Delete a run's jobs with their pods, and wait until they are gone. Returns their names."""
    selector = f"{MANAGED}=pelican,{RUN}={run}"
    names = [found["metadata"]["name"] for found in kube.jobs(selector)]
    for name in names:
        kube.delete_job(name)
    deadline = time.monotonic() + wait_s
    while any(kube.pods(name) for name in names) or kube.jobs(selector):
        if time.monotonic() > deadline:
            raise InfrastructureError(f"jobs of run {run!r} are still being deleted")
        time.sleep(POLL_S)
    return names


def _ended(job: Tree) -> str | None:
    """Succeeded, Failed or None."""
    for condition in job.get("status", {}).get("conditions", []):
        if condition["type"] in ("Succeeded", "Failed") and condition["status"] == "True":
            return str(condition["type"])
    return None


def _where(job: Job) -> dict[str, Any]:
    return {"stage": job.spec.stage, "loop": job.spec.loop, "phase": job.spec.phase.value}
