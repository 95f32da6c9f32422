"""The step that names the policy which the sealed set sees."""

from __future__ import annotations

from pelican.monitoring.progress import emit
from pelican.runs.failure import record_failure
from pelican.runs.layout import last_policy, manifests, require_recipe
from pelican.storage import open_store


def choose_policy(store: str, run: str, base: str) -> str:
    """What the run offers once its loops have ended. Ends the process with one sentence on failure.

    Args:
        store: URI of the store.
        run: its name.
        base: the policy before loop 1, which is offered if no loop passed its gate.
    """
    objects = open_store(store)
    with record_failure(objects, run, "choice"):
        chosen = last_policy(manifests(objects, run), require_recipe(objects, run)) or base
    message = f"the sealed set is read by the base and by {chosen}"
    emit("event", {"event": "told", "stage": "choice", "message": message})
    return chosen
