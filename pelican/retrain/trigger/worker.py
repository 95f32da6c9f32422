"""The trigger's worker: from sealed batches to runs that ended, and what may be forgotten then."""

from __future__ import annotations

import logging
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Any, Literal, Protocol

from pelican import errors
from pelican.config import env
from pelican.errors import PelicanError, UserInputError
from pelican.launch.job import choose
from pelican.launch.kfp import ENDED, Kfp, kfp_run_of
from pelican.registry.models import list_versions, resolve_model
from pelican.retrain.plan import Plan, plan_of
from pelican.retrain.records import read_verdict
from pelican.retrain.trigger import inbox
from pelican.retrain.trigger.config import Decision, Metrics, TriggerConfig
from pelican.retrain.trigger.inbox import ROOT, Batch, Inbox, Seen
from pelican.retrain.trigger.records import DamagedError, Stored, encode, read_record
from pelican.runs.layout import CANCELLED, list_runs, run_prefix, state
from pelican.storage.store import ObjectStore

# The worker seals batches, starts one run each, in order, and follows it to its end.
#
# A replica works on a batch under a lease in the store. If it falls silent another takes over; that
# can repeat a start, never double a run, because the run's name comes from data, model version and
# recipe, and all three are pinned before the first start.
#
# A damaged status is made again by the replica that has it in mind; else, after a lease's silence, from
# the trail of decisions and the runs. A damaged cursor follows from the statuses.

MAX_BACKOFF_S = 600.0
CURSOR = f"{ROOT}/cursor.json"
ENDED_STATES = ("done", "failed")


class Submitter(Protocol):
    """The part that starts, watches and stops runs; `CommandSubmitter` is the real one."""

    def plan(self, data: str, model: str) -> Plan: ...
    def start(self, data: str, model: str, run: str) -> None: ...
    def look(self, run: str) -> tuple[str, str]: ...
    def stop(self) -> None: ...


class Status(Stored):
    """`status/<n>.json`. Times in seconds since 1970."""

    batch: int
    state: Literal["claimed", "started", "done", "failed"] = "claimed"
    owner: str
    lease_until: float
    parent: str | None = None
    run: str | None = None
    attempts: int = 0
    not_before: float = 0.0
    outcome: str = ""
    message: str = ""


class Worker:
    """One replica's share of the work; `tick` does what is to be done now and returns."""

    def __init__(
        self,
        store: ObjectStore,
        config: TriggerConfig,
        submitter: Submitter,
        metrics: Metrics,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.store, self.config, self.submitter, self.metrics = store, config, submitter, metrics
        self.clock = clock
        self.inbox = Inbox(store, config, clock)
        self.replica = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
        self.trouble = ""  # why the last tick could not do all that was to be done
        self._mine: Status | None = None  # as last read or written, if this replica's
        self._damaged_since: dict[int, float] = {}
        self._next_tidy = 0.0
        self._end = threading.Event()

    def run(self) -> None:
        """Tick until `stop`. What a tick raises is logged, and the next one tries again."""
        while not self._end.wait(self.config.tick_s):
            try:
                self.tick()
            except Exception as error:
                self.metrics.errors.inc()
                named = isinstance(error, PelicanError)
                self.trouble = str(error) if named else f"a tick failed: {type(error).__name__}"
                log.warning("tick failed: %s: %s", type(error).__name__, error)

    def stop(self) -> None:
        """End the runs that this replica started, and hand its batch to the others."""
        self._end.set()
        self.submitter.stop()
        try:
            status, tag = self._status(self._cursor())
            if status is not None and status.owner == self.replica:
                self._write(status, tag, lease_until=0.0)
        except Exception as error:
            log.warning("the lease was not handed back: %s", error)

    def tick(self, *, at_once: bool = False) -> None:
        """Seal a batch if one is due; then look after the oldest that is not finished."""
        if self.clock() >= self._next_tidy:
            self._next_tidy = self.clock() + EVERY_S
            if is_due(self.store, self.clock()):
                # Longer than a signed request's timestamp is taken, or it could be sent again.
                prune(self.store, max(self.config.retention_s, 2 * self.config.tolerance_s))
                inbox.rotate(self.store, self.config.audit_s)
        batch = self.inbox.seal(at_once=at_once)
        if batch is not None:
            self.metrics.sealed.inc()
            self.metrics.decisions.labels("sealed").inc()
            self._audit("sealed", batch.number, objects=len(batch.events), why=batch.why)
        waiting = self.inbox.pending()
        self.metrics.pending.set(len(waiting))
        self.metrics.oldest.set(self.clock() - waiting[0].received if waiting else 0)
        head, _ = self.inbox.head()
        number = self._cursor()
        self.metrics.backlog.set(max(0, head.number - number + 1) if head else 0)
        if waiting:
            self.metrics.decisions.labels("quiet").inc()
        if head is not None and number <= head.number:
            decision = self._work(self.inbox.batch(number))
            self.metrics.decisions.labels(decision).inc()
        elif not waiting:
            self.metrics.decisions.labels("idle").inc()
        before, self.trouble = self.trouble, next(iter(self.inbox.unreadable), "")
        if self.trouble not in ("", before):
            log.warning("%s", self.trouble)

    def idle(self) -> bool:
        """Whether nothing waits and every batch is finished."""
        return not self.inbox.pending() and self.all_finished()

    def all_finished(self) -> bool:
        """Every batch is finished; events may wait for theirs."""
        head, _ = self.inbox.head()
        return head is None or self._cursor() > head.number

    def _work(self, batch: Batch) -> Decision:
        status, tag = self._status(batch.number)
        if status is not None and status.state in ENDED_STATES:
            self._advance(batch.number)
            return "finished"
        mine = self._claim(batch.number, status, tag)
        if mine is None:
            return "held"
        status, tag = mine
        self.inbox.restore_data(batch)
        if status.run is None or status.parent is None:
            pinned = self._pin(batch, status, tag)
            if pinned is None:
                return "finished"
            status, tag = pinned
        if status.state == "started":
            return self._follow(batch, status, tag)
        if self.clock() < status.not_before:
            return "backoff"
        return self._start(batch, status, tag)

    def _claim(
        self, number: int, status: Status | None, tag: str | None
    ) -> tuple[Status, str] | None:
        """The status under our lease, taken or renewed; None while another replica has it."""
        now = self.clock()
        until = now + self.config.lease_s
        if status is None:
            made = Status(batch=number, owner=self.replica, lease_until=until)
            if not self.store.write(_key(number), encode(made), if_absent=True):
                return None
            self._audit("claimed", number)
            return self._reread(number)
        if status.owner != self.replica:
            if status.lease_until > now:
                return None
            taken = self._write(status, tag, owner=self.replica, lease_until=until)
            if taken:
                self._audit("taken over", number, before=status.owner)
            return taken
        if status.lease_until - now < self.config.lease_s / 2:
            return self._write(status, tag, lease_until=until)
        return status, tag or ""

    def _pin(self, batch: Batch, status: Status, tag: str) -> tuple[Status, str] | None:
        """Fix the model version and so the run's name before anything is started."""
        try:
            parent = resolve_model(self.store, self.config.model).name
            plan = self.submitter.plan(batch.data or "", parent)
        except (UserInputError, errors.DamagedError) as error:
            self._finish(batch.number, status, tag, "failed", str(error))
            return None
        if plan.learned:
            self._finish(batch.number, status, tag, "done", "learned before")
            return None
        return self._write(status, tag, parent=parent, run=plan.run)

    def _start(self, batch: Batch, status: Status, tag: str) -> Decision:
        """Record the attempt, then start the run.

        If this replica is killed in between, the batch is not lost: another replica takes it over
        when the lease ends.
        """
        wait = min(self.config.backoff_s * 2**status.attempts, MAX_BACKOFF_S)
        noted = self._write(
            status,
            tag,
            state="started",
            attempts=status.attempts + 1,
            not_before=self.clock() + wait,
        )
        if noted is None:
            return "held"
        assert status.run is not None and status.parent is not None and batch.data is not None
        attempt = status.attempts + 1
        self._audit("started", batch.number, run=status.run, parent=status.parent, attempt=attempt)
        self.metrics.started.inc()
        self.submitter.start(batch.data, status.parent, status.run)
        return "started"

    def _follow(self, batch: Batch, status: Status, tag: str) -> Decision:
        assert status.run is not None
        found, message = self.submitter.look(status.run)
        if found == "complete":
            verdict = read_verdict(self.store, status.run)
            self._finish(batch.number, status, tag, "done", verdict.outcome if verdict else "")
            return "finished"
        if found == "refused" or (found == "lost" and status.attempts >= self.config.attempts):
            self._finish(batch.number, status, tag, "failed", message)
            return "finished"
        if found != "lost":
            return "running"
        if self.clock() < status.not_before:
            return "backoff"
        self._audit("lost", batch.number, run=status.run, message=message)
        again = self._write(status, tag, state="claimed", message=message)
        return self._start(batch, *again) if again is not None else "held"

    def _finish(
        self, number: int, status: Status, tag: str, state: Literal["done", "failed"], said: str
    ) -> None:
        if self._write(status, tag, state=state, outcome=said) is None:
            return
        self.metrics.finished.labels(said if state == "done" else "failed").inc()
        self._audit(state, number, run=status.run, outcome=said)
        self._advance(number)

    def _advance(self, number: int) -> None:
        """The next batch's turn; several replicas may say so."""
        try:
            data, tag = self.store.read_tagged(CURSOR, checked=False)
        except KeyError:
            self.store.write(CURSOR, str(number + 1).encode(), if_absent=True)
            return
        if data == str(number).encode():
            self.store.write(CURSOR, str(number + 1).encode(), if_tag=tag)

    def _cursor(self) -> int:
        """The batch that is worked on: all before it have ended, whatever the object says."""
        try:
            data, tag = self.store.read_tagged(CURSOR, checked=False)
        except KeyError:
            return 1
        text = data.decode("ascii", "replace")
        number = int(text) if text.isdecimal() and len(text) < 10 else 0
        if number == 1 or (number > 1 and self._has_ended(number - 1)):
            return number
        first = 1
        while self._has_ended(first):
            first += 1
        if self.store.write(CURSOR, str(first).encode(), if_tag=tag):
            self._audit("cursor mended", first, before=text[:20])
        return first

    def _has_ended(self, number: int) -> bool:
        try:
            status, _ = read_record(self.store, _key(number), Status, lambda s: s.batch == number)
        except (KeyError, DamagedError):
            return False
        return status.state in ENDED_STATES

    def _status(self, number: int) -> tuple[Status | None, str | None]:
        key = _key(number)
        try:
            status, tag = read_record(self.store, key, Status, lambda s: s.batch == number)
        except KeyError:
            return None, None
        except DamagedError as damage:
            again = self._recall(number, damage)
            if self.store.write(key, encode(again), if_tag=damage.tag):
                self._audit("status mended", number, run=again.run, state=again.state)
            status, tag = read_record(self.store, key, Status, lambda s: s.batch == number)
        self._damaged_since.pop(number, None)
        self._mine = status if status.owner == self.replica else None
        return status, tag

    def _recall(self, number: int, damage: DamagedError) -> Status:
        """What a damaged status said. Raises DamagedError until its owner was silent for a lease."""
        if self._mine is not None and self._mine.batch == number:
            return self._mine
        since, waited = self._damaged_since.get(number), self.config.lease_s
        wait = DamagedError(
            self.store, damage.key, damage.tag, f"it is made again after {waited:g} s of silence"
        )
        if since is not None and self.clock() - since < waited:
            raise wait
        entries = [entry for entry in inbox.read_audit(self.store) if entry.get("batch") == number]
        made = Status(batch=number, owner=self.replica, lease_until=self.clock() + waited)
        ended = [entry for entry in entries if entry.get("what") in ENDED_STATES]
        if ended:
            outcome, run = str(ended[-1].get("outcome", "")), ended[-1].get("run")
            changes = {"state": ended[-1]["what"], "outcome": outcome, "run": run}
            return Status.model_validate({**made.model_dump(), **changes})
        if since is None:
            self._damaged_since[number] = self.clock()
            raise wait
        batch = self.inbox.batch(number)
        starts = [entry for entry in entries if entry.get("what") == "started"]
        found = self._find_run(batch.data or "", starts)
        if found is None:
            return made
        run, parent = found
        changes = {"state": "started", "run": run, "parent": parent, "attempts": len(starts)}
        return made.model_copy(update=changes)

    def _find_run(self, data: str, starts: list[dict[str, Any]]) -> tuple[str, str] | None:
        """The run that was started for a data version, and the model version it goes on from.

        The trail of decisions knows it before it has files; else it is the one of the runs that this
        configuration would start.
        """
        for entry in reversed(starts):
            run, parent = entry.get("run"), entry.get("parent")
            if isinstance(run, str) and isinstance(parent, str):
                return run, parent
        there = {submission.run for submission in list_runs(self.store)}
        for version in list_versions(self.store, self.config.model):
            plan = self.submitter.plan(data, version.name)
            if plan.run in there:
                return plan.run, plan.parent
        return None

    def _reread(self, number: int) -> tuple[Status, str] | None:
        status, tag = self._status(number)
        return (status, tag) if status is not None and tag is not None else None

    def _write(self, status: Status, tag: str | None, **changes: Any) -> tuple[Status, str] | None:
        """The changed status with its tag; None if another replica was faster."""
        after = status.model_copy(update=changes)
        if not self.store.write(_key(status.batch), encode(after), if_tag=tag or ""):
            return None
        found = self._reread(status.batch)
        return found if found is not None and found[0].owner == after.owner else None

    def _audit(self, what: str, batch: int, **details: Any) -> None:
        inbox.record(self.store, self.replica, what, batch=batch, **details)


def _key(number: int) -> str:
    return f"{ROOT}/status/{number:06d}.json"


# The submitter starts a batch's run by the one idempotent call, as a process of its own.

log = logging.getLogger("pelican.retrain.trigger")
COMMAND = (sys.executable, "-m", "pelican", "retrain")
STOP_S = 15.0
USER_INPUT = 2
State = Literal["running", "complete", "refused", "lost"]
_Process = subprocess.Popen[bytes]


@dataclass
class _Started:
    process: _Process
    output: IO[bytes]


class CommandSubmitter:
    """`pelican retrain …` in the background. The call is idempotent, so it may be made again."""

    def __init__(self, store: ObjectStore, config: TriggerConfig) -> None:
        self.store, self.config = store, config
        self.command = shlex.split(config.command) or list(COMMAND)
        self._started: dict[str, _Started] = {}

    def plan(self, data: str, model: str) -> Plan:
        """The run that `start` would start."""
        overrides = [self.config.overrides] if self.config.overrides else []
        return plan_of(self.store, data, model, self.config.recipe, overrides)

    def start(self, data: str, model: str, run: str) -> None:
        """Start the call, unless this process has it running."""
        if run in self._started and self._started[run].process.poll() is None:
            return
        config = self.config
        command = [*self.command, "--data", data, "--from", model, "--recipe", config.recipe]
        command += ["--set", config.overrides, "--launcher", config.launcher]
        command += ["--store", self.store.uri]
        secret = ("PELICAN_TRIGGER_TOKENS", "PELICAN_TRIGGER_SECRETS")
        environment = {k: v for k, v in env.read_all().items() if not k.startswith(secret)}
        output = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        process = subprocess.Popen(
            command,
            env={**environment, "PYTHONPATH": env.python_path()},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._started[run] = _Started(process, output)

    def look(self, run: str) -> tuple[State, str]:
        """The state of a run and a sentence. `lost` is worth another start, `refused` is not."""
        started = self._started.get(run)
        if started is not None and started.process.poll() is None:
            return "running", ""
        try:
            found = state(self.store, run)
            if found == "complete" and read_verdict(self.store, run) is not None:
                return "complete", ""
        except (UserInputError, errors.DamagedError) as error:  # the call may mend it
            return "lost", str(error)
        if found == "running":
            return "running", "in another process"
        if self.store.exists(f"{run_prefix(run)}/{CANCELLED}"):
            return "refused", "the run was cancelled; `pelican retrain` continues it"
        if self._goes_on_in_kubeflow(run):
            return "running", "in Kubeflow"
        if started is None:
            return "lost", "the process that ran it is gone"
        sentence = _last_error(started.output)
        code = started.process.returncode
        # A call that came while another process had the run says nothing about the run.
        wrong = code == USER_INPUT and "is being run by process" not in sentence
        return ("refused" if wrong else "lost"), sentence or f"exit status {code}"

    def _goes_on_in_kubeflow(self, run: str) -> bool:
        """Whether Kubeflow has the run, though no process follows it. Its silence is no end."""
        kfp_run = kfp_run_of(self.store, run)
        if kfp_run is None or not env.read("KFP_HOST"):
            return False
        try:
            return Kfp().state(kfp_run) not in (None, *ENDED)
        except PelicanError as error:
            log.warning("the state of run %s is not known: %s", run, error)
            return True

    def stop(self) -> None:
        """End what was started; the runs can be continued.

        Stages that are processes end with it. Jobs of a cluster go on: asked to end, the call would
        delete them, so it is not asked, and whoever takes the run over adopts them.
        """
        running = [s.process for s in self._started.values() if s.process.poll() is None]
        way = signal.SIGKILL if self._has_jobs() else signal.SIGTERM
        for process in running:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, way)
        for process in running:
            with suppress(subprocess.TimeoutExpired):
                process.wait(STOP_S)
            if process.poll() is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def _has_jobs(self) -> bool:
        """Whether the stages of what was started run elsewhere."""
        if self.config.command:
            return False
        try:
            return choose(self.config.launcher, self.store.uri)[0] != "local"
        except UserInputError:  # then nothing was started
            return False


def _last_error(output: IO[bytes]) -> str:
    """The sentence after the last `error:`, else the last line."""
    output.seek(max(0, output.seek(0, os.SEEK_END) - 20_000))
    lines = [x for x in output.read().decode("utf-8", "replace").splitlines() if x.strip()]
    errors = [line.partition("error: ")[2] for line in lines if line.startswith("error: ")]
    return (errors or lines or [""])[-1][:500]


# Pruning deletes what the trigger remembers of events and requests, once it is old enough.

EVERY_S = 3600.0
TIDIED = f"{ROOT}/tidied.json"


def is_due(store: ObjectStore, now: float) -> bool:
    """Whether nobody tidied for an hour; then the caller shall, and no other replica or poll will."""
    try:
        data, tag = store.read_tagged(TIDIED, checked=False)
        last = float(data)
    except KeyError:
        last, tag = 0.0, None
    except ValueError:  # damaged
        last = 0.0
    if 0 <= now - last < EVERY_S:  # a time to come would be waited for without end
        return False
    return store.write(TIDIED, str(now).encode(), if_absent=tag is None, if_tag=tag)


def prune(store: ObjectStore, older_s: float) -> int:
    """Delete marks of settled events, newest versions of keys and ids of requests; returns how many.

    An event that waits for its batch keeps its mark. A notification that comes again after
    `older_s` counts as new; a signed request does not, as its timestamp is too old by then.
    """
    now, count = time.time(), 0
    for kind in ("seen", "keys", "requests"):
        try:
            ages = store.ages(f"{ROOT}/{kind}")
        except FileNotFoundError:  # another replica deletes too
            continue
        for key, written in ages.items():
            if now - written > older_s and (kind != "seen" or _is_settled(store, key)):
                store.delete(key)
                count += 1
    return count


def _is_settled(store: ObjectStore, key: str) -> bool:
    try:
        return read_record(store, key, Seen)[0].batch is not None
    except (KeyError, DamagedError):
        return False
