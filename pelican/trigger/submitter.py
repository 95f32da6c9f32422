"""Starts a batch's run by the one idempotent call, as a process of its own, and says how it is."""

from __future__ import annotations

import logging
import os
import shlex
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Literal

from pelican import settings
from pelican.errors import PelicanError, UserInputError
from pelican.launch.choice import choose
from pelican.launch.kfp_api import ENDED, Kfp
from pelican.launch.kfp_client import kfp_run_of
from pelican.retrain.plan import Plan, plan_of
from pelican.retrain.records import read_verdict
from pelican.runs import CANCELLED, run_prefix, state
from pelican.storage.objects import ObjectStore
from pelican.trigger.config import TriggerConfig

log = logging.getLogger("pelican.trigger")
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
        path = os.pathsep.join(
            [str(settings.home()), *filter(None, [os.environ.get("PYTHONPATH")])]
        )
        secret = ("PELICAN_TRIGGER_TOKENS", "PELICAN_TRIGGER_SECRETS")
        environment = {k: v for k, v in os.environ.items() if not k.startswith(secret)}
        output = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        process = subprocess.Popen(
            command,
            env={**environment, "PYTHONPATH": path},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._started[run] = _Started(process, output)

    def look(self, run: str) -> tuple[State, str]:
        """How a run is, and a sentence: `refused` is not worth another start, `lost` is."""
        started = self._started.get(run)
        if started is not None and started.process.poll() is None:
            return "running", ""
        found = state(self.store, run)
        if found == "complete" and read_verdict(self.store, run) is not None:
            return "complete", ""
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
        if kfp_run is None or not os.environ.get("KFP_HOST"):
            return False
        try:
            return Kfp().state(kfp_run) not in (None, *ENDED)
        except PelicanError as error:
            log.warning("how run %s is can't be told: %s", run, error)
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
    told = [line.partition("error: ")[2] for line in lines if line.startswith("error: ")]
    return (told or lines or [""])[-1][:500]
