"""Runs as they lie in the store: names, recipe, state, scores. Reads manifests, needs no torch.

runs/<run>/run.json       pipeline, recipe's address and digest, when it was submitted
runs/<run>/recipe.json    the resolved recipe, written by preflight
runs/<run>/loop-<k>/…     the stages
runs/<run>/logs/          one log per stage, and the pipeline's own
runs/<run>/failure.json   why the last attempt ended, if it did
runs/<run>/summary.json   state and scores, written last
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from pelican.errors import UserInputError
from pelican.recipe import Recipe
from pelican.records import Phase
from pelican.storage.manifests import Manifest, now, read_manifest
from pelican.storage.objects import ObjectStore

RUN, RECIPE, FAILURE, SUMMARY = "run.json", "recipe.json", "failure.json", "summary.json"
CANCELLED = "cancelled.json"  # whoever launches a stage of the run stops
LOCK = "logs/run.lock"
PHASES = (Phase.BASE.value, Phase.RL.value, Phase.SFT.value)
_STAGE = re.compile(r"loop-(\d+)/([a-z-]+)-(base|rl|sft)/manifest\.json")
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")

State = Literal["running", "unfinished", "failed", "complete"]


class Submission(BaseModel):
    """`run.json`: what was asked for."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    run: str
    pipeline: str
    address: str
    overrides: list[str]
    recipe: str
    submitted: datetime


def check_run_name(run: str) -> str:
    """`run`, if it can be a Kubernetes label. Raises UserInputError."""
    if not _NAME.fullmatch(run):
        raise UserInputError(
            f"run name {run!r} is not 1 to 63 lower-case letters, digits and inner dashes"
        )
    return run


def run_prefix(run: str) -> str:
    return f"runs/{check_run_name(run)}"


def stage_prefix(run: str, loop: int, stage: str, phase: str) -> str:
    """The prefix that a stage owns."""
    return f"{run_prefix(run)}/loop-{loop}/{stage}-{phase}"


def read_json(store: ObjectStore, key: str) -> Any | None:
    """The JSON object at `key`, or None. Raises UserInputError if it is no JSON."""
    try:
        return json.loads(store.read(key))
    except KeyError:
        return None
    except ValueError:
        raise UserInputError(_damaged(store, key)) from None


def _damaged(store: ObjectStore, key: str) -> str:
    return f"{store.uri}/{key} is damaged; mend it, or delete it and the run it belongs to"


def read_recipe(store: ObjectStore, run: str) -> Recipe | None:
    """The run's resolved recipe, or None before its preflight."""
    tree = read_json(store, f"{run_prefix(run)}/{RECIPE}")
    return None if tree is None else Recipe.model_validate(tree)


def read_submission(store: ObjectStore, run: str) -> Submission | None:
    key = f"{run_prefix(run)}/{RUN}"
    tree = read_json(store, key)
    try:
        return None if tree is None else Submission.model_validate(tree)
    except ValidationError:
        raise UserInputError(_damaged(store, key)) from None


def list_runs(store: ObjectStore) -> list[Submission]:
    """Every run of the store, the newest first; one whose `run.json` is damaged is named and skipped."""
    names = {key.split("/")[1] for key in store.keys("runs") if key.endswith(f"/{RUN}")}
    found = []
    for name in names:
        try:
            found.append(read_submission(store, name))
        except UserInputError as error:
            print(f"skipped: {error}", file=sys.stderr, flush=True)
    return sorted((s for s in found if s), key=lambda s: s.submitted, reverse=True)


def manifests(store: ObjectStore, run: str) -> list[Manifest]:
    """The manifests of a run's finished stages, in the order in which they finished."""
    prefix = run_prefix(run)
    found = []
    for key in store.keys(prefix):
        if _STAGE.fullmatch(key.removeprefix(f"{prefix}/")):
            manifest = read_manifest(store, key.removesuffix("/manifest.json"))
            if manifest is not None:
                found.append(manifest)
    return sorted(found, key=lambda m: m.finished)


def require_run(store: ObjectStore, run: str) -> None:
    """Raises UserInputError, with the nearest name, if there is no such run."""
    if store.exists(f"{run_prefix(run)}/{RUN}") or store.exists(f"{run_prefix(run)}/{RECIPE}"):
        return
    import difflib

    known = [submission.run for submission in list_runs(store)]
    close = difflib.get_close_matches(run, known, n=1, cutoff=0.3)
    hint = f"; did you mean {close[0]!r}?" if close else "; `pelican runs` lists them"
    raise UserInputError(f"there is no run {run!r} in {store.uri}{hint}")


def state(store: ObjectStore, run: str) -> State:
    """Whether a run is complete, failed, running now, or was cut off."""
    from pelican.launch.lock import held

    prefix = run_prefix(run)
    if held(store.local_root(f"{prefix}/logs") / "run.lock"):
        return "running"
    summary = read_json(store, f"{prefix}/{SUMMARY}")
    if summary is not None and summary["state"] == "complete":
        return "complete"
    return "failed" if store.exists(f"{prefix}/{FAILURE}") else "unfinished"


def expected_stages(recipe: Recipe, pipeline: str) -> int:
    """How many stages a run of a pipeline has if no gate stops it."""
    if pipeline == "evaluate":
        return 1
    diagnosis = 3 if pipeline == "retrain" else 0
    rl = 5 if recipe.rl.enabled and pipeline != "sft_only" else 0
    sft = 6 if recipe.sft.enabled and pipeline != "rl_only" else 0
    return 1 + diagnosis + recipe.loops * (rl + sft)


def scores(store: ObjectStore, run: str) -> list[dict[str, Any]]:
    """One entry for every evaluation: loop, phase, embodied, general, per family and dimension."""
    evaluations = [m for m in manifests(store, run) if m.stage == "eval"]
    evaluations.sort(key=lambda m: (m.loop, PHASES.index(m.phase)))
    return [_scores_of(store, manifest) for manifest in evaluations]


def _scores_of(store: ObjectStore, manifest: Manifest) -> dict[str, Any]:
    entry: dict[str, Any] = {"loop": manifest.loop, "phase": manifest.phase}
    where = stage_prefix(manifest.run, manifest.loop, "eval", manifest.phase)
    summary = read_json(store, f"{where}/summary.json") or {}
    for name in ("embodied", "general"):
        estimate = summary.get(name) or {}
        entry[name] = manifest.metrics.get(name, estimate.get("score"))
        if estimate:
            entry[f"{name}_interval"] = [estimate["low"], estimate["high"]]
            entry[f"{name}_chance"] = estimate["chance"]
    for name in ("families", "dimensions", "benchmarks", "horizons"):
        entry[name] = {
            key: {field: value[field] for field in ("score", "low", "high", "n", "chance")}
            for key, value in sorted((summary.get(name) or {}).items())
        }
    entry["against"] = {
        name: {suite: comparison[suite] for suite in ("embodied", "general")}
        for name, comparison in (summary.get("comparisons") or {}).items()
    }
    if "go_on" in manifest.metrics:
        entry["go_on"] = manifest.metrics["go_on"] >= 0.5
        entry["reasons"] = manifest.notes.get("gate", [])
    return entry


def counts(found: list[Manifest]) -> list[dict[str, Any]]:
    """The ledger's counts of every filter stage."""
    return [{"loop": m.loop, "phase": m.phase, **m.counts} for m in found if m.stage == "filter"]


def durations(found: list[Manifest]) -> list[dict[str, Any]]:
    """Seconds of every finished stage."""
    return [
        {"loop": m.loop, "phase": m.phase, "stage": m.stage, "seconds": round(m.seconds, 1)}
        for m in found
    ]


def show(store: ObjectStore, run: str) -> dict[str, Any]:
    """All that `pelican show RUN --json` prints."""
    require_run(store, run)
    found = manifests(store, run)
    submission, recipe = read_submission(store, run), read_recipe(store, run)
    prefix = run_prefix(run)
    return {
        "run": run,
        "state": state(store, run),
        "pipeline": submission.pipeline if submission else None,
        "address": submission.address if submission else None,
        "recipe": recipe.name if recipe else None,
        "recipe_digest": recipe.digest() if recipe else None,
        "overrides": submission.overrides if submission else [],
        "submitted": submission.submitted.isoformat() if submission else None,
        "scores": scores(store, run),
        "counts": counts(found),
        "durations": durations(found),
        "seconds": round(sum(m.seconds for m in found), 1),
        "policy": last_policy(found),
        "report": report_path(store, run),
        "failure": read_json(store, f"{prefix}/{FAILURE}"),
    }


def last_policy(found: list[Manifest]) -> str | None:
    """Prefix of the newest checkpoint that its evaluation's gate did not stop."""
    stopped = {
        (m.loop, m.phase) for m in found if m.stage == "eval" and m.metrics.get("go_on", 1.0) < 0.5
    }
    trained = [
        m for m in found if m.stage.startswith("train-") and (m.loop, m.phase) not in stopped
    ]
    if not trained:
        return None
    last = max(trained, key=lambda m: (m.loop, PHASES.index(m.phase)))
    return stage_prefix(last.run, last.loop, last.stage, last.phase) + "/checkpoint"


def report_path(store: ObjectStore, run: str) -> str | None:
    """Where the run's report lies, if it was written."""
    key = f"{run_prefix(run)}/report.html"
    return str(store.local(key)) if store.exists(key) else None


def finish(store: ObjectStore, run: str, pipeline: str, succeeded: bool) -> dict[str, float]:
    """Write `summary.json` and the report; returns finite metrics under stable names.

    `succeeded` is what the pipeline's backend says. The report is built after a failure too, from
    the stages that finished; that it can't be built never hides why the run failed.
    """
    prefix = run_prefix(run)
    report_error = None
    try:
        from pelican.report import build_report
    except ImportError as error:
        report_error = str(error)
    else:
        try:
            build_report(store, run)
        except Exception as error:  # the summary must be written whatever the page lacks
            report_error = f"{type(error).__name__}: {error}"
    tree = show(store, run)
    tree["verdict"] = read_json(store, f"{prefix}/verdict.json")  # of a retraining
    complete = succeeded and _ran_to_its_end(tree, read_recipe(store, run), pipeline)
    tree |= {"state": "complete" if complete else "failed", "finished": now().isoformat()}
    tree |= {"pipeline": pipeline, "report_error": report_error}
    if complete:
        store.delete(f"{prefix}/{FAILURE}")
        tree["failure"] = None
    store.write(f"{prefix}/{SUMMARY}", json.dumps(tree, indent=1, allow_nan=False).encode())
    if pipeline == "retrain":
        from pelican.retrain.notify import notify

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
    final_phase = Phase.SFT if recipe.sft.enabled else Phase.RL
    if last["loop"] == 0 or last["phase"] != final_phase.value:
        return False
    return last["loop"] == recipe.loops or not last.get("go_on", True)


def summary_metrics(tree: dict[str, Any]) -> dict[str, float]:
    """The few numbers that Kubeflow compares runs by."""
    metrics: dict[str, float] = {"complete": float(tree["state"] == "complete")}
    entries = tree["scores"]
    if not entries:
        return metrics
    base = entries[0] if entries[0]["phase"] == Phase.BASE.value else None
    last = entries[-1]
    for name in ("embodied", "general"):
        if last[name] is None:
            continue
        metrics[name] = last[name]
        if f"{name}_chance" in last:
            metrics[f"{name} chance"] = last[f"{name}_chance"]
        if base is not None and base[name] is not None:
            metrics[f"{name} gain"] = last[name] - base[name]
    metrics["loops"] = float(last["loop"])
    metrics["stage minutes"] = round(tree["seconds"] / 60, 2)
    return metrics


def score_rows(tree: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """(policy, embodied, general) as text, for the table at the end of a run."""

    def text(entry: dict[str, Any], name: str) -> str:
        if entry[name] is None:
            return "-"
        low, high = entry.get(f"{name}_interval", (None, None))
        return f"{entry[name]:.1f}" + (f" ({low:.1f} to {high:.1f})" if low is not None else "")

    for entry in tree["scores"]:
        phase = {"base": "base", "rl": "RL", "sft": "SFT"}[entry["phase"]]
        name = phase if entry["loop"] == 0 else f"loop {entry['loop']}, after {phase}"
        yield name, text(entry, "embodied"), text(entry, "general")
    first = tree["scores"][0] if tree["scores"] else {}
    if "embodied_chance" in first:
        yield (
            "chance",
            f"{first['embodied_chance']:.1f}",
            f"{first.get('general_chance', 0.0):.1f}",
        )
