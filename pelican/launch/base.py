"""One interface to whoever runs a stage: a process here, a PyTorchJob on a cluster."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from pelican.errors import InfrastructureError, PelicanError, ResourceError, UserInputError
from pelican.stages.spec import StageSpec
from pelican.storage.manifests import Manifest
from pelican.telemetry.events import Event

OnProgress = Callable[[Event], None]


class CancelledError(PelicanError):
    """The run was stopped on purpose."""

    exit_code = 130


class StageError(PelicanError):
    """A stage failed for a reason of its own: a bug, or something not foreseen."""


@dataclass(frozen=True)
class Job:
    """A stage to run, by how many processes. The name is the same for every attempt."""

    spec: StageSpec
    processes: int = 1
    threads: int = 1
    env: Mapping[str, str] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """`loop-1-train-rl-rl`, unique in its run."""
        return self.spec.output.removeprefix(f"runs/{self.spec.run}/").replace("/", "-")

    @property
    def name(self) -> str:
        """`<run>-loop-1-train-rl-rl`."""
        return f"{self.spec.run}-{self.label}"

    @property
    def logs(self) -> str:
        """Where the log lies in the store: outside the stage's prefix, which may be deleted."""
        return f"runs/{self.spec.run}/logs/{self.label}.log"


@dataclass(frozen=True)
class JobResult:
    """A finished stage, how long the launcher took and how often it tried."""

    manifest: Manifest
    seconds: float
    attempts: int


class Launcher(ABC):
    """Runs a job to its end. Failures are the errors of `pelican.errors`, told apart:

    UserInputError (not retried), InfrastructureError (retried by the launcher, raised when it gives
    up), ResourceError (memory), CancelledError, and StageError for what is none of these.
    """

    @abstractmethod
    def run(self, job: Job, on_progress: OnProgress | None = None) -> JobResult:
        """Run `job`, follow its log, hand its progress on, and return its committed manifest."""

    @abstractmethod
    def cancel(self) -> None:
        """Stop the running job and leave nothing behind; `run` raises CancelledError."""


_BY_CODE: dict[int, type[PelicanError]] = {
    error.exit_code: error
    for error in (UserInputError, InfrastructureError, ResourceError, CancelledError)
}


def error_of(code: int, message: str) -> PelicanError:
    """The error that a stage's exit code stands for."""
    return _BY_CODE.get(code, StageError)(message)
