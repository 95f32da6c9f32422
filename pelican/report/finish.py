"""The end of a run: its summary, its report, and word of it if it was a retraining."""

from __future__ import annotations

import json
from typing import Any

from pelican.outcome import show, summary_metrics
from pelican.recipe import Recipe
from pelican.report.page import build_report
from pelican.retrain.notify import notify
from pelican.retrain.records import VERDICT
from pelican.runs import FAILURE, SUMMARY, read_json, read_recipe, run_prefix
from pelican.storage.manifests import now
from pelican.storage.objects import ObjectStore


def finish(store: ObjectStore, run: str, pipeline: str, succeeded: bool) -> dict[str, float]:
    """Write `summary.json` and the report; returns finite metrics under stable names.

    `succeeded` is what the pipeline's backend says. The report is built after a failure too, from
    the stages that finished; that it can't be built never hides why the run failed.
    """
    prefix = run_prefix(run)
    report_error = None
    try:
        build_report(store, run)
    except Exception as error:  # the summary must be written whatever the page lacks
        report_error = f"{type(error).__name__}: {error}"
    tree = show(store, run)
    tree["verdict"] = read_json(store, f"{prefix}/{VERDICT}")  # of a retraining
    complete = succeeded and _ran_to_its_end(tree, read_recipe(store, run), pipeline)
    tree |= {"state": "complete" if complete else "failed", "finished": now().isoformat()}
    tree |= {"pipeline": pipeline, "report_error": report_error}
    if complete:
        store.delete(f"{prefix}/{FAILURE}")
        tree["failure"] = None
    store.write(f"{prefix}/{SUMMARY}", json.dumps(tree, indent=1, allow_nan=False).encode())
    if pipeline == "retrain":
        notify(store, run)
    return summary_metrics(tree)


def _ran_to_its_end(tree: dict[str, Any], recipe: Recipe | None, pipeline: str) -> bool:
    """Whether the last evaluation is that of the last loop, or its gate said stop."""
    if pipeline == "retrain":
        return tree["verdict"] is not None
    if recipe is None or not tree["scores"]:
        return False
    last = tree["scores"][-1]
    if pipeline == "evaluate":
        return True
    if last["loop"] == 0 or last["phase"] != recipe.last_phase.value:
        return False
    return last["loop"] == recipe.loops or not last.get("go_on", True)
