"""`pelican submit --wait`: a run that Kubeflow drives, told as its stages end."""

from __future__ import annotations

import json
import time
from datetime import datetime

from pydantic import ValidationError

from pelican.commands.ended import error_told, print_result, state_after
from pelican.errors import PelicanError
from pelican.launch.base import CancelledError
from pelican.runs import CANCELLED, FAILURE, manifests, read_json, run_prefix
from pelican.storage.manifests import now
from pelican.storage.objects import ObjectStore
from pelican.telemetry.view import View, open_view

LOOK_S = 15.0  # between two looks at the store


def wait_in_kubeflow(store: ObjectStore, run: str, kfp_run: str, stages: int) -> None:
    """Until Kubeflow's run has ended, and its scores. Raises what the failed step said.

    An error of Kubeflow's API ends the wait, not the run.
    """
    from pelican.launch.kfp_api import Kfp
    from pelican.launch.kfp_client import RunEndedError, wait_for

    kfp, started, failed = Kfp(), time.monotonic(), None
    with open_view(stages) as view:
        ended = EndedStages(store, run, view)
        try:
            wait_for(kfp, kfp_run, ended.look_now_and_then)
        except (RunEndedError, CancelledError) as error:
            failed = error
        ended.look()
    if isinstance(failed, CancelledError):  # in Kubeflow's UI, perhaps: then nobody has marked it
        mark = {"cancelled": now().isoformat()}
        store.write(f"{run_prefix(run)}/{CANCELLED}", json.dumps(mark).encode(), if_absent=True)
        raise failed
    print_result(store, run, time.monotonic() - started)
    if failed is not None:
        failure = read_json(store, f"{run_prefix(run)}/{FAILURE}")
        raise failed if failure is None else error_told(failure)
    if state_after(store, run) != "complete":
        raise PelicanError(f"run {run} is not complete: {kfp.link(kfp_run)}")


class EndedStages:
    """Tells each stage once for each time that it was made, when the store has its manifest."""

    def __init__(self, store: ObjectStore, run: str, view: View) -> None:
        self._store, self._run, self._view = store, run, view
        self._looked_at = -LOOK_S
        self._told: dict[str, datetime] | None = None  # when each ended; None before a first look
        self._trouble = ""

    def look_now_and_then(self) -> None:
        """At most every LOOK_S: a look reads all manifests."""
        if time.monotonic() - self._looked_at >= LOOK_S:
            self.look()
            self._looked_at = time.monotonic()

    def look(self) -> None:
        """What can't be read now is said once: the run goes on without us."""
        try:
            found = manifests(self._store, self._run)
        except (PelicanError, ValidationError) as error:
            if str(error) != self._trouble:
                self._trouble = str(error)
                self._view.say(self._trouble.splitlines()[0])
            return
        first = self._told is None
        told = self._told = self._told or {}
        for manifest in found:
            name = f"{manifest.loop} {manifest.phase} {manifest.stage}"
            if told.get(name) == manifest.finished:
                continue
            told[name] = manifest.finished
            self._view.progress.finished = len(told) - 1  # one that was made again counts once
            self._view.event(
                {
                    "event": "reused" if first else "done",
                    "stage": manifest.stage,
                    "loop": manifest.loop,
                    "phase": manifest.phase,
                    "seconds": manifest.seconds,
                    "metrics": manifest.metrics,
                }
            )
