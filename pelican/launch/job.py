"""One interface to whoever runs a stage (processes here, a PyTorchJob on a cluster), and the choice of one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from pelican.config import env as settings
from pelican.config.overrides import nearest
from pelican.errors import (
    STAGE_DAMAGED,
    DamagedError,
    InfrastructureError,
    PelicanError,
    ResourceError,
    UserInputError,
)
from pelican.monitoring.progress import Event
from pelican.stages.stage import StageSpec
from pelican.storage.manifests import Manifest

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
    """Runs a job to its end. Failures are the errors of `pelican.errors`:

    UserInputError (not retried), InfrastructureError (retried by the launcher, raised when it gives
    up), ResourceError (memory), DamagedError (an input is not what was written), CancelledError, and
    StageError for what is none of these.
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
} | {STAGE_DAMAGED: DamagedError}


def error_of(code: int, message: str) -> PelicanError:
    """The error that a stage's exit code stands for."""
    return _BY_CODE.get(code, StageError)(message)


# Who drives a run: this machine's processes, jobs of a cluster, or Kubeflow; and why.

Name = Literal["local", "pytorchjob", "kubeflow"]
NAMES: tuple[Name, ...] = get_args(Name)
AUTO = "auto"


def choose(
    given: str, store_uri: str, environ: Mapping[str, str] | None = None
) -> tuple[Name, str]:
    """The launcher and a sentence that says why. Raises UserInputError for one that can't be."""
    env = settings.read_all() if environ is None else environ
    remote = store_uri.startswith("s3://")
    cluster = _cluster(env)
    if given == AUTO:
        return _follows(env, remote, cluster)
    for name in NAMES:
        if given == name:
            if name != "local" and not remote:
                raise UserInputError(
                    f"the launcher {name!r} needs a store that pods reach, not {store_uri};"
                    " set PELICAN_STORE=s3://bucket/prefix"
                )
            if name == "kubeflow" and not env.get("KFP_HOST"):
                raise UserInputError("the launcher 'kubeflow' needs KFP_HOST, the API's address")
            if name == "pytorchjob" and not cluster:
                raise UserInputError("the launcher 'pytorchjob' needs a cluster; set KUBECONFIG")
            return name, "asked for"
    raise UserInputError(f"there is no launcher {given!r}{nearest(given, [*NAMES, AUTO])}")


def _follows(env: Mapping[str, str], remote: bool, cluster: str) -> tuple[Name, str]:
    kfp = env.get("KFP_HOST")
    if not remote:
        hint = ""
        if kfp or cluster:
            what = "KFP_HOST" if kfp else cluster
            hint = f" ({what} is set; PELICAN_STORE=s3://bucket/prefix would use the cluster)"
        return "local", f"the store is a folder{hint}"
    if kfp:
        return "kubeflow", "KFP_HOST is set and the store is S3"
    if cluster:
        return "pytorchjob", f"{cluster} is set, KFP_HOST is not, and the store is S3"
    return "local", "the store is S3, but neither KFP_HOST nor KUBECONFIG is set"


def _cluster(env: Mapping[str, str]) -> str:
    """What names a cluster; empty if nothing does."""
    if env.get("KUBECONFIG") and all(Path(p).exists() for p in env["KUBECONFIG"].split(":") if p):
        return "KUBECONFIG"
    return "KUBERNETES_SERVICE_HOST" if env.get("KUBERNETES_SERVICE_HOST") else ""
