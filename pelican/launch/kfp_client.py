"""A run of Kubeflow Pipelines that was submitted: which one it is, and its end."""

from __future__ import annotations

import time
from collections.abc import Callable

from pelican.errors import InfrastructureError, PelicanError
from pelican.launch.base import CancelledError
from pelican.launch.kfp_api import ENDED, Kfp
from pelican.runs import read_json, run_prefix
from pelican.storage.objects import ObjectStore

KFP = "kfp.json"  # below the run's prefix: which run of Kubeflow it is
POLL_S = 5.0
PATIENCE_S = 300.0


class RunEndedError(PelicanError):
    """Kubeflow's run has ended, and not well."""


def wait_for(kfp: Kfp, run_id: str, meanwhile: Callable[[], None] = lambda: None) -> None:
    """Until the run has ended; `meanwhile` is called after each look that finds it going on.

    Raises RunEndedError unless it succeeded, CancelledError if it was cancelled. An API that is
    away is asked again for PATIENCE_S; then InfrastructureError, and the run goes on.
    """
    answered = time.monotonic()
    while True:
        try:
            state = kfp.state(run_id)
        except InfrastructureError:
            if time.monotonic() - answered > PATIENCE_S:
                raise
            time.sleep(POLL_S)
            continue
        if state == "SUCCEEDED":
            return
        if state in ("CANCELED", "CANCELING"):
            raise CancelledError(f"the run was cancelled: {kfp.link(run_id)}")
        if state is None or state in ENDED:
            raise RunEndedError(f"the run ended as {state or 'deleted'}: {kfp.link(run_id)}")
        meanwhile()
        answered = time.monotonic()
        time.sleep(POLL_S)


def kfp_run_of(store: ObjectStore, run: str) -> str | None:
    """Kubeflow's id of a run that was submitted to it."""
    record = read_json(store, f"{run_prefix(run)}/{KFP}")
    return None if record is None else str(record["run_id"])
