"""`pelican submit --wait`: a run that Kubeflow drives, told as its stages end."""

from __future__ import annotations

import json
import time

from pelican.commands.ended import error_told, print_result
from pelican.errors import InfrastructureError, PelicanError
from pelican.launch.base import CancelledError
from pelican.runs import CANCELLED, FAILURE, manifests, read_json, run_prefix
from pelican.storage.manifests import now
from pelican.storage.objects import ObjectStore
from pelican.telemetry.view import View, open_view

LOOK_S = 15.0  # between two looks at the store


def wait_in_kubeflow(store: ObjectStore, run: str, kfp_run: str, stages: int) -> None:
    """Until Kubeflow's run has ended. Raises what the failed step said, if it said something."""
    from pelican.launch.kfp_api import Kfp
    from pelican.launch.kfp_client import wait_for

    started = time.monotonic()
    try:
        with open_view(stages) as view:
            ended = EndedStages(store, run, view)
            wait_for(Kfp(), kfp_run, ended.look_now_and_then)
            ended.look()
    except CancelledError:  # in Kubeflow's UI, perhaps: then nobody has marked it
        mark = {"cancelled": now().isoformat()}
        store.write(f"{run_prefix(run)}/{CANCELLED}", json.dumps(mark).encode(), if_absent=True)
        raise
    except InfrastructureError:  # of the wait; the run goes on
        raise
    except PelicanError:
        failure = read_json(store, f"{run_prefix(run)}/{FAILURE}")
        if failure is None:
            raise
        raise error_told(failure) from None
    print_result(store, run, time.monotonic() - started)


class EndedStages:
    """Tells each stage once, when the store has its manifest."""

    def __init__(self, store: ObjectStore, run: str, view: View) -> None:
        self._store, self._run, self._view = store, run, view
        self._began, self._looked = now(), -LOOK_S
        self._told: set[str] = set()

    def look_now_and_then(self) -> None:
        """At most every LOOK_S: a look reads all manifests. A store that is away is asked again."""
        if time.monotonic() - self._looked < LOOK_S:
            return
        try:
            self.look()
        except InfrastructureError as error:
            self._view.say(str(error))
        self._looked = time.monotonic()

    def look(self) -> None:
        for manifest in manifests(self._store, self._run):
            name = f"{manifest.loop} {manifest.phase} {manifest.stage}"
            if name in self._told:
                continue
            self._told.add(name)
            self._view.event(
                {
                    "event": "reused" if manifest.finished < self._began else "done",
                    "stage": manifest.stage,
                    "loop": manifest.loop,
                    "phase": manifest.phase,
                    "seconds": manifest.seconds,
                    "metrics": manifest.metrics,
                }
            )
