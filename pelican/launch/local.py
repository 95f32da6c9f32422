"""The local launcher: a stage as processes of this machine.

Several processes get the variables that torchrun gives (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_*)
but are started directly: torchrun's agent imports torch first, seconds for each of a run's stages,
and hides its workers' exit codes. In a pod the same command runs under torchrun. What each process
runs is `pelican stage`: `pelican/stages/runner.py`.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential

from pelican.base.files import run_alone
from pelican.base.process import PARENT, owner_alive
from pelican.config import env
from pelican.config.stages import STAGES
from pelican.errors import InfrastructureError, LostPeerError, PelicanError
from pelican.launch import warm
from pelican.launch.job import CancelledError, Job, JobResult, Launcher, OnProgress, error_of
from pelican.monitoring.progress import parse
from pelican.stages.fingerprint import finished_manifest
from pelican.storage import open_store

GRACE_S = 3.0  # between SIGTERM and SIGKILL
CAUSE_S = 5.0  # between a lost connection and the word of who broke it
LOCK_WAIT_S = 10.0  # for the last breath of a launcher that was killed
_TRANSIENT = ("Address already in use", "EADDRINUSE", "No space left on device")


class ProcessLauncher(Launcher):
    """Runs a stage as processes of this machine, `pelican stage NAME --spec FILE` each.

    They are forked from the run's warm process, if there is one, which saves the imports.
    """

    def __init__(self, *, attempts: int = 3, backoff_s: float = 1.0) -> None:
        self.attempts = attempts
        self.backoff_s = backoff_s
        self._cancelled = False
        self._gang: _Gang | None = None

    def run(self, job: Job, on_progress: OnProgress | None = None) -> JobResult:
        """One attempt after the other; the lock keeps a second launcher off the same stage."""
        store = open_store(job.spec.store)
        logs = store.local_root(f"runs/{job.spec.run}/logs")
        started = time.monotonic()
        retrying = Retrying(
            retry=retry_if_exception_type(InfrastructureError),
            stop=stop_after_attempt(self.attempts),
            wait=wait_exponential(self.backoff_s, max=30.0),
            reraise=True,
        )
        with run_alone(logs / f"{job.label}.lock", f"stage {job.name}", wait_s=LOCK_WAIT_S) as lock:
            spec_file = logs / f"{job.label}.spec.json"
            spec_file.write_text(job.spec.model_dump_json(indent=1))
            log_file = logs / f"{job.label}.log"
            try:
                for attempt in retrying:
                    with attempt:
                        self._attempt(job, spec_file, log_file, lock, on_progress)
            finally:
                if log_file.exists():
                    store.put(job.logs, log_file)
        manifest = finished_manifest(store, job.spec)
        if manifest is None:
            raise error_of(1, f"{job.name} ended well but left no manifest; see {job.logs}")
        attempts = int(retrying.statistics.get("attempt_number", 1))
        return JobResult(manifest, time.monotonic() - started, attempts)

    def cancel(self) -> None:
        self._cancelled = True
        if self._gang is not None:
            self._gang.end()

    def _attempt(
        self, job: Job, spec_file: Path, log_file: Path, lock: int, on_progress: OnProgress | None
    ) -> None:
        command = ["stage", job.spec.stage, "--spec", str(spec_file)]
        with log_file.open("a", encoding="utf-8") as log:
            log.write(f"# {time.strftime('%F %T')} pelican {' '.join(command)} x {job.processes}\n")
            log.flush()
            replicas = STAGES[job.spec.stage].replicas
            gang = _Gang(command, _environments(job), lock, log, on_progress, replicas)
            self._gang = gang
            try:
                while gang.follow(0.5):
                    if self._cancelled or not owner_alive():
                        gang.end()
                        raise CancelledError(f"{job.name} was stopped")
            finally:
                gang.end()
        if self._cancelled:
            raise CancelledError(f"{job.name} was stopped")
        if gang.failure is not None:
            raise _explain(job, gang, log_file)


@dataclass
class _Rank:
    process: subprocess.Popen[bytes] | warm.Forked
    pending: bytes = b""
    error: dict[str, object] | None = None
    tail: deque[str] = field(default_factory=lambda: deque(maxlen=40))

    @property
    def lost_peer(self) -> bool:
        """Whether it ended because another did, as far as it says."""
        return self.error is not None and self.error.get("kind") == LostPeerError.__name__


@dataclass
class _Gang:
    """The processes of one attempt. The first that fails ends the others.

    Where that is one that lost another, the other gets CAUSE_S to end and to say why.
    """

    command: list[str]
    environments: list[Mapping[str, str]]
    lock: int
    log: IO[str]
    on_progress: OnProgress | None
    replicas: bool = False
    failure: _Rank | None = None
    _failed_at: float | None = None

    def __post_init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._ranks: list[_Rank] = []
        for environment in self.environments:
            process = warm.start(self.command, environment, self.lock) or subprocess.Popen(
                [sys.executable, "-m", "pelican", *self.command],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=(self.lock,),
            )
            assert process.stdout is not None
            os.set_blocking(process.stdout.fileno(), False)
            rank = _Rank(process)
            self._selector.register(process.stdout, selectors.EVENT_READ, rank)
            self._ranks.append(rank)

    def follow(self, timeout: float) -> bool:
        """Read what was printed, for at most `timeout` seconds; False once all have ended."""
        for key, _ in self._selector.select(timeout):
            self._read(key.data)
        codes = [rank.process.poll() for rank in self._ranks]
        any_left = None in codes or 0 in codes
        failed = [
            rank
            for rank, code in zip(self._ranks, codes, strict=True)
            if code not in (None, 0)
            # A replica that was killed is lost, not wrong: the others take its work over.
            and not (code is not None and code < 0 and self.replicas and any_left)
        ]
        if not failed:
            return None in codes
        for rank in failed:
            self._read(rank)
        self._failed_at = self._failed_at or time.monotonic()
        cause = next((rank for rank in failed if not rank.lost_peer), None)
        if cause is None and None in codes and time.monotonic() - self._failed_at < CAUSE_S:
            return True
        self.failure = cause or failed[0]
        self.end()
        return False

    def end(self) -> None:
        """End every process and what it started; then read the last lines."""
        for sig, grace in ((signal.SIGTERM, GRACE_S), (signal.SIGKILL, GRACE_S)):
            running = [rank for rank in self._ranks if rank.process.poll() is None]
            for rank in running:
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(rank.process.pid, sig)
            deadline = time.monotonic() + grace
            for rank in running:
                with suppress(subprocess.TimeoutExpired):
                    rank.process.wait(max(0.0, deadline - time.monotonic()))
        for rank in self._ranks:  # grandchildren that stayed in the group
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(rank.process.pid, signal.SIGKILL)
            if rank.process.stdout is not None and not rank.process.stdout.closed:
                self._read(rank)
                self._selector.unregister(rank.process.stdout)
                rank.process.stdout.close()

    def _read(self, rank: _Rank) -> None:
        assert rank.process.stdout is not None
        while not rank.process.stdout.closed and (chunk := rank.process.stdout.read(65536)):
            rank.pending += chunk
        *lines, rank.pending = rank.pending.split(b"\n")
        for line in lines:
            self._line(rank, line.decode("utf-8", "replace"))

    def _line(self, rank: _Rank, line: str) -> None:
        found = parse(line)
        if found is None:
            self.log.write(line + "\n")
            self.log.flush()
            if line.strip():
                rank.tail.append(line.strip())
        elif found[0] == "progress" and self.on_progress is not None:
            self.on_progress(found[1])
        elif found[0] == "error":
            rank.error = found[1]
            self.log.write(line + "\n")


def _environments(job: Job) -> list[Mapping[str, str]]:
    """The environment of every rank."""
    threads = str(job.threads)
    common = {k: v for k, v in env.read_all().items() if k not in _RANK_VARIABLES}
    common |= {name: threads for name in _THREAD_VARIABLES}
    common |= {PARENT: str(os.getpid()), "PYTHONUNBUFFERED": "1"}
    common |= {"TOKENIZERS_PARALLELISM": "false"}
    common |= {env.ATTEMPT: uuid.uuid4().hex}
    common |= job.env
    if job.processes == 1:
        return [common]
    group = {
        "WORLD_SIZE": str(job.processes),
        "LOCAL_WORLD_SIZE": str(job.processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
    }
    return [
        {**common, **group, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        for rank in range(job.processes)
    ]


_RANK_VARIABLES = frozenset(
    {"RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}
)
_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "POLARS_MAX_THREADS",
)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _explain(job: Job, gang: _Gang, log_file: Path) -> PelicanError:
    """One sentence for the rank that failed first."""
    assert gang.failure is not None
    error, code, tail = gang.failure.error, gang.failure.process.returncode, gang.failure.tail
    last = tail[-1] if tail else "it printed nothing"
    if error is not None:
        status = int(str(error.get("exit_code", 1)))
        where = "" if status in (2, 77) else f" (log: {log_file})"
        return error_of(status, f"{error.get('message', last)}{where}")
    if any(word in line for word in _TRANSIENT for line in tail):
        return InfrastructureError(f"{job.name}: {last} (log: {log_file})")
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        hint = "; the machine may be short of memory" if name == "SIGKILL" else ""
        return InfrastructureError(f"{job.name} was killed by {name}{hint} (log: {log_file})")
    return error_of(1, f"{job.name} failed: {last} (log: {log_file})")
