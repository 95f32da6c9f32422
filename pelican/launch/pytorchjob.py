"""A stage as a PyTorchJob: started or adopted, followed, explained, cleaned up."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pelican.config import env
from pelican.errors import DamagedError, InfrastructureError, PelicanError, UserInputError
from pelican.launch.explain import PreemptedError, failure, waiting
from pelican.launch.job import CancelledError, Job, JobResult, Launcher, OnProgress, StageError
from pelican.launch.kube import Absent, Conflict, Kube
from pelican.launch.podspec import (
    ATTEMPT,
    DIGEST,
    FOLLOWED,
    KFP_RUN,
    MANAGED,
    RUN,
    STORE,
    Target,
    Tree,
    build_job,
    least_pods,
    mark_attempt,
    processes_of,
)
from pelican.monitoring.progress import emit, parse
from pelican.runs.layout import CANCELLED, RECIPE, run_prefix
from pelican.stages.fingerprint import finished_manifest
from pelican.storage import open_store
from pelican.storage.store import ObjectStore

# The log of a running pod: every line once, also when connections break.


class LogFollower:
    """Follows one pod's log in a thread of its own, which calls `on_line` for each line."""

    def __init__(self, kube: Kube, pod: str, on_line: Callable[[str], None]) -> None:
        self._kube, self._pod, self._on_line = kube, pod, on_line
        self._ended = threading.Event()
        self._last = ""  # time of the last line, and the lines of that time
        self._same: list[str] = []
        self._thread = threading.Thread(target=self._run, name=f"log of {pod}", daemon=True)
        self._thread.start()

    def finish(self, wait_s: float) -> None:
        """The container has ended: read what is left, for at most `wait_s`."""
        self._ended.set()
        self._thread.join(wait_s)

    def _run(self) -> None:
        while True:
            ended = self._ended.is_set()  # before reading: then all of it is read once more
            try:
                for line in self._kube.stream_log(self._pod, self._last or None):
                    self._take(line)
            except Absent:
                return
            except (PelicanError, OSError):  # not started yet, or the connection broke
                pass
            except Exception as error:
                if "urllib3" not in type(error).__module__:
                    raise
            if ended:
                return
            self._ended.wait(1.0)

    def _take(self, line: str) -> None:
        """Leave out lines that come again: they have nanoseconds, but `sinceTime` counts in seconds."""
        written, _, text = line.partition(" ")
        if written < self._last or (written == self._last and text in self._same):
            return
        if written != self._last:
            self._last, self._same = written, []
        self._same.append(text)
        self._on_line(text)


# The log of a stage that runs in pods: rank 0's lines as they come, the failing rank's at the end.

LAST_LINES = 60  # of another rank that failed
FINISH_S = 10.0  # for the last lines of a container that has ended


class JobLog:
    """Appends to the stage's log in the store, and hands progress on."""

    def __init__(self, store: ObjectStore, key: str, on_progress: OnProgress | None) -> None:
        self._store, self._key, self._on_progress = store, key, on_progress
        folder, _, name = key.rpartition("/")
        # A file of this launcher alone, because two may follow one job from one machine.
        self._path: Path = store.local_root(folder) / f".{name}.{uuid.uuid4().hex}.tmp"
        try:
            self._path.write_bytes(store.read(key))  # lines of earlier attempts
        except (KeyError, DamagedError):
            self._path.write_bytes(b"")
        self._file = self._path.open("a", encoding="utf-8")
        self._followers: dict[str, LogFollower] = {}

    def note(self, text: str) -> None:
        """A line of the launcher's own."""
        self._write(f"# {time.strftime('%F %T')} {text}")

    def follow(self, kube: Kube, pod: Tree) -> None:
        """Follow this pod's log from its start, if its container has begun."""
        uid, name = pod["metadata"]["uid"], pod["metadata"]["name"]
        begun = pod.get("status", {}).get("phase") not in ("Pending", None)
        if begun and uid not in self._followers:
            self._followers[uid] = LogFollower(kube, name, self._line)

    def finish(self) -> None:
        """The pods have ended: take their last lines."""
        for follower in self._followers.values():
            follower.finish(FINISH_S)

    def failed(self, kube: Kube, pods: Sequence[Tree]) -> None:
        """Add the last lines of the failed pods whose logs were not followed."""
        for pod in pods:
            if pod["metadata"]["uid"] in self._followers:
                continue
            if pod.get("status", {}).get("phase") != "Failed":
                continue
            name = pod["metadata"]["name"]
            self.note(f"the last lines of {name}")
            for line in kube.log(name, LAST_LINES).splitlines():
                if parse(line) is None:
                    self._write(line)

    def keep(self) -> None:
        """Copy the log, as far as it is written, to the store."""
        self._file.flush()
        self._store.put(self._key, self._path)

    def close(self) -> None:
        if not self._file.closed:
            self.keep()
            self._file.close()
            self._path.unlink()

    def _line(self, line: str) -> None:
        found = parse(line)
        if found is None:
            self._write(line)
        elif found[0] == "progress" and self._on_progress is not None:
            self._on_progress(found[1])

    def _write(self, line: str) -> None:
        if not self._file.closed:
            self._file.write(line + "\n")


# The launcher of a cluster: a stage as a PyTorchJob of the training operator (v1).
#
# The job's name follows from run, loop and stage, so the next launcher of the stage finds the job and
# adopts it if its digest is the same. So no work is lost when a launcher dies.

POLL_S = 1.0
FOLLOWED_S = 60.0  # between two notes on the job that somebody follows it
EXPLAIN_S = 3.0  # after which a pod that has not started is asked why
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
    explained: str = ""  # why it waits, as it was said last
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
        """Delete a job that has not ended; a failed one stays until its TTL, for others who follow it."""
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
        wanted = mark_attempt(tree, attempt, now)
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
            self._kube.delete_job(
                name, meta["uid"]
            )  # it has ended, without the result that is wanted
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
                with suppress(Absent):  # then the next look finds out why
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
        if reason.message != current.explained:
            current.explained = reason.message
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


# The reaper: jobs whose run is gone, because a launcher that was killed can't delete its own.


def reap_jobs(
    kube: Kube, store: ObjectStore | None, grace_s: float, *, dry_run: bool = False
) -> Iterator[tuple[str, str]]:
    """Delete what nobody needs; yields name and reason. Finished jobs are left to their TTL.

    A launcher notes once a minute that it follows its job; a retried step adopts it, so a job is
    orphaned only once nobody has for `grace_s`. Kubeflow is asked if KFP_HOST is set; the store says
    nothing about jobs of another store.
    """
    for job in kube.jobs(f"{MANAGED}=pelican"):
        if _ended(job) or "deletionTimestamp" in job["metadata"]:
            continue
        why = _orphaned(job, store, grace_s)
        if why is None:
            continue
        if not dry_run:
            kube.delete_job(job["metadata"]["name"], job["metadata"]["uid"])
        yield job["metadata"]["name"], why


def _orphaned(job: Tree, store: ObjectStore | None, grace_s: float) -> str | None:
    labels = job["metadata"].get("labels", {})
    annotations = job["metadata"].get("annotations", {})
    run, kfp_run = labels.get(RUN), labels.get(KFP_RUN)
    if store is not None and run and annotations.get(STORE) == store.uri:
        if store.exists(f"{run_prefix(run)}/{CANCELLED}"):
            return f"run {run} was cancelled"
        if not store.exists(f"{run_prefix(run)}/{RECIPE}"):
            return f"run {run} is not in the store any more"
    if kfp_run and env.read("KFP_HOST"):
        from pelican.launch.kfp import ENDED, Kfp

        state = Kfp().state(kfp_run)
        if state is None or state in ENDED:
            return f"Kubeflow's run {kfp_run} is {state or 'gone'}"
    since = annotations.get(FOLLOWED) or job["metadata"]["creationTimestamp"]
    age = (datetime.now(UTC) - datetime.fromisoformat(since)).total_seconds()
    return f"nobody has followed it for {age / 60:.0f} min" if age > grace_s else None
