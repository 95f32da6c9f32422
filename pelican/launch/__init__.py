"""Who runs a stage: `step` is what a pipeline component calls."""

from pelican.launch.base import CancelledError, Job, JobResult, Launcher, StageError
from pelican.launch.process import ProcessLauncher
from pelican.launch.steps import step

__all__ = [
    "CancelledError",
    "Job",
    "JobResult",
    "Launcher",
    "ProcessLauncher",
    "StageError",
    "step",
]
