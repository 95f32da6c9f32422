"""What Kubeflow's UI shows of an evaluation and of a run, and the summary at a run's end."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pelican.config.overrides import fields
from pelican.config.recipe import Recipe
from pelican.data.frames import read_frame
from pelican.errors import DamagedError
from pelican.monitoring.progress import emit
from pelican.records import Phase
from pelican.report.page import build_report
from pelican.report.run import RESOURCES, Run
from pelican.report.words import first_upper
from pelican.retrain.notify import notify
from pelican.retrain.records import read_verdict
from pelican.runs.failure import record_failure
from pelican.runs.layout import (
    FAILURE,
    SUMMARY,
    manifests,
    read_json,
    read_recipe,
    run_prefix,
    stage_prefix,
)
from pelican.runs.outcome import (
    closing_words,
    first_and_last,
    read_scores,
    report_path,
    score_rows,
    show,
    summary_metrics,
    tokens,
)
from pelican.runs.records import Scores
from pelican.runs.restore import look_over
from pelican.storage.manifests import Manifest, now, read_manifest
from pelican.storage.reading import tell
from pelican.storage.store import ObjectStore

# The end of a run: its summary, its report, and word of it if it was a retraining.


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
    for sentence in tree.pop("damaged"):
        print(f"left out: {sentence}", file=sys.stderr, flush=True)
    ended = read_verdict(store, run)
    tree["verdict"] = ended and ended.model_dump(mode="json")
    complete = succeeded and _ran_to_its_end(tree, read_recipe(store, run), pipeline)
    tree |= {"state": "complete" if complete else "failed", "finished": now().isoformat()}
    tree |= {
        "pipeline": pipeline,
        "report_error": report_error,
        "damaged": _tell_damage(store, run),
    }
    if complete:
        store.delete(f"{prefix}/{FAILURE}")
        tree["failure"] = None
    store.write(f"{prefix}/{SUMMARY}", json.dumps(tree, indent=1, allow_nan=False).encode())
    if pipeline == "retrain":
        notify(store, run)
    return summary_metrics(tree)


def _tell_damage(store: ObjectStore, run: str) -> list[str]:
    """Say which files of the run are not what was written: no stage needed them, or one would have said so."""
    damaged = look_over(store, run)
    if damaged:
        more = f" and {len(damaged) - 1} more" if len(damaged) > 1 else ""
        message = (
            f"{damaged[0]}{more} is damaged; no stage needs it now, and it stays as it is"
            f" (`pelican show {run} --verify` reads all files)"
        )
        emit("event", {"event": "told", "stage": "summary", "message": message})
    return damaged


def _ran_to_its_end(tree: dict[str, Any], recipe: Recipe | None, pipeline: str) -> bool:
    """Whether the run did all that its pipeline has to do.

    `retrain` has a verdict, `evaluate` has a score; any other pipeline ended with the last loop's
    last phase, or with a gate that said stop.
    """
    if pipeline == "retrain":
        return tree["verdict"] is not None
    if recipe is None or not tree["scores"]:
        return False
    last = tree["scores"][-1]
    if pipeline == "evaluate":
        return True
    if recipe.data.dev is not None and len(tree["sealed"]) < 2:
        return False
    if last["loop"] == 0 or last["phase"] != recipe.last_phase.value:
        return False
    return last["loop"] == recipe.loops or not last.get("go_on", True)


# What Kubeflow's UI shows of an evaluation and of a run: numbers, a matrix, a page, a verdict.
#
# The names of the numbers are the same in every run, so that runs can be compared; all are finite.
# Returns plain values: the components log them, nothing here imports kfp.

# Settings that ablations change; Kubeflow's own parameter is the whole recipe as one text.
SETTINGS = (
    "loops",
    "seed",
    "data.samples_per_loop",
    "rollout.samples",
    "reward.flip",
    "reward.format_weight",
    "rl.enabled",
    "rl.group_size",
    "rl.learning_rate",
    "rl.kl",
    "rl.max_steps",
    "rl.stop.threshold",
    "rl.clip_high",
    "rl.variant.updates",
    "rl.variant.rollouts",
    "rl.variant.perception",
    "rl.variant.entropy",
    "rl.variant.hints",
    "sft.enabled",
    "sft.learning_rate",
    "sft.epochs",
    "distill.tries",
    "distill.max_rows",
    "distill.only_replay",
    "distill.max_calls",
)


@dataclass(frozen=True)
class Matrix:
    """A confusion matrix as KFP takes it: rows before, columns after."""

    categories: list[str]
    rows: list[list[int]]


@dataclass(frozen=True)
class Shown:
    """The artifacts of one task. `matrix` is None where there is nothing to compare with."""

    metrics: dict[str, float]
    markdown: str
    matrix: Matrix | None = None
    page: str = ""


def conclude(store: ObjectStore, run: str, pipeline: str, succeeded: bool) -> Shown:
    """Write the run's summary and report, also after a failure. Ends the process if that fails.

    Returns what the summary task shows in Kubeflow's UI.
    """
    with record_failure(store, run, "summary"):
        return _conclude(store, run, pipeline, succeeded)


def _conclude(store: ObjectStore, run: str, pipeline: str, succeeded: bool) -> Shown:
    metrics, prefix = finish(store, run, pipeline, succeeded), run_prefix(run)
    tree = read_json(store, f"{prefix}/{SUMMARY}") or {}
    recipe = read_recipe(store, run)
    found = manifests(store, run, tell)
    metrics |= score_metrics(store, run, tree) | cost_metrics(found)
    if recipe is not None:
        metrics |= setting_metrics(recipe)
    where = report_path(store, run)
    page = store.read(f"{prefix}/report.html").decode() if where else ""
    matrix = None
    if len(tree.get("scores") or []) > 1:
        before, after = (_eval_prefix(run, entry) for entry in first_and_last(tree))
        matrix = success_matrix(store, before, after)
    return Shown(
        finite(metrics),
        verdict(tree),
        matrix,
        page
        or f"<p>The report was not written: {tree.get('report_error') or 'no stage ended'}</p>",
    )


def evaluation(store: ObjectStore, output: str, base: str) -> Shown:
    """The artifacts of an evaluation's task: its scores, the gate's words, success against the base's."""
    manifest = read_manifest(store, output)
    if manifest is None:
        return Shown({}, "The evaluation has not finished.")
    metrics = {
        name.replace("/", " ") if "/" in name else name.replace("_", " "): value
        for name, value in manifest.metrics.items()
    }
    metrics |= forgotten(read_scores(store, manifest))
    says = "go on" if manifest.metrics.get("go_on", 1.0) >= 0.5 else "stop"
    asked = manifest.phase in ("base", Run(store, manifest.run).last_phase)
    words = f"The gate says: {says}." if asked else f"Were it the gate of a loop: {says}."
    if Phase(manifest.phase).sealed:
        words = "The sealed set, which no gate reads."
    reasons = "".join(f"\n- {reason}" for reason in manifest.notes.get("gate", []))
    matrix = success_matrix(store, base, output) if base else None
    return Shown(finite(metrics), f"**{words}**\n{reasons}\n", matrix)


def finite(metrics: Mapping[str, float]) -> dict[str, float]:
    """`metrics` without NaN and infinity, because Kubeflow fails a task that logs them."""
    return {name: float(value) for name, value in metrics.items() if math.isfinite(value)}


def score_metrics(store: ObjectStore, run: str, tree: Mapping[str, Any]) -> dict[str, float]:
    """Scores by loop and phase; of the policy on offer by family and dimension, with the gain."""
    entries = tree.get("scores") or []
    metrics: dict[str, float] = {}
    for entry in [*entries, *tree.get("sealed", ())]:
        phase = Phase(entry["phase"]).words.replace(",", "")
        name = f"loop {entry['loop']} {phase}" if entry["loop"] else phase
        for suite in ("embodied", "general"):
            if entry[suite] is not None:
                metrics[f"{name} {suite}"] = entry[suite]
            for kind, value in entry.get("sampled", {}).get(suite, {}).items():
                metrics[f"{name} {suite} {kind}"] = value
    if not entries:
        return metrics
    first, last = first_and_last(tree)
    for kind, single in (("families", "family"), ("dimensions", "dimension")):
        for name, estimate in last[kind].items():
            metrics[f"{single} {name}"] = estimate["score"]
            if name in first[kind]:
                metrics[f"{single} {name} gain"] = estimate["score"] - first[kind][name]["score"]
    manifest = read_manifest(store, _eval_prefix(run, last))
    return metrics | (forgotten(read_scores(store, manifest, tell)) if manifest else {})


def forgotten(summary: Scores) -> dict[str, float]:
    """Percent of the base's right answers that are now wrong, by suite."""
    compared = summary.comparisons.get("base")
    if compared is None:
        return {}
    flips = {"embodied": compared.embodied_flips, "general": compared.general_flips}
    return {
        f"forgotten {suite} %": 100 * found.lost / max(1, found.kept + found.lost)
        for suite, found in flips.items()
        if found
    }


def cost_metrics(found: list[Manifest]) -> dict[str, float]:
    """Tokens, and hours of processes: GPU hours where each process has a GPU."""
    hours = sum(m.notes.get(RESOURCES, {}).get("processes", 1) * m.seconds / 3600 for m in found)
    return {
        "tokens generated": float(tokens(found, "generated")),
        "tokens trained": float(tokens(found, "trained")),
        "process hours": round(hours, 4),
    }


def setting_metrics(recipe: Recipe) -> dict[str, float]:
    """The recipe's fields that ablations change, as numbers; what is on is 1, what is off 0."""
    tree = fields(recipe)
    found = {
        name: float(tree[name]) for name in SETTINGS if isinstance(tree.get(name), int | float)
    }
    own = not recipe.distill.endpoint and recipe.models.teacher == recipe.models.policy
    found["difficulty-aware"] = float(recipe.filter.strategy == "difficulty")
    found["teacher on what is weak"] = float(recipe.mines)
    found["general replay"] = float(recipe.distill.ratio[-1] > 0)
    found["teacher is base"] = float(own)
    return {f"setting {name}": value for name, value in found.items()}


def success_matrix(store: ObjectStore, before: str, after: str) -> Matrix | None:
    """Questions by family: wrong or right before (rows) and after (columns).

    One matrix whose blocks on the diagonal are the families. None without both results.
    """
    frames = []
    for prefix in (before, after):
        try:
            frames.append(read_frame(store.local(f"{prefix}/results.parquet")))
        except KeyError:
            return None
        except DamagedError as error:
            tell(error)
            return None
    old = frames[0].select("suite", "sample_id", before="success")
    pairs = frames[1].join(old, on=["suite", "sample_id"], how="inner")
    families = sorted(pairs["family"].unique())
    words = ("wrong", "right")
    categories = [f"{family}: {word}" for family in families for word in words]
    place = {name: i for i, name in enumerate(categories)}
    rows = [[0] * len(categories) for _ in categories]
    counted = pairs.group_by("family", "before", "success").len()
    for family, was, became, count in counted.iter_rows():
        rows[place[f"{family}: {words[was]}"]][place[f"{family}: {words[became]}"]] = int(count)
    return Matrix(categories, rows)


def verdict(tree: Mapping[str, Any]) -> str:
    """The run in a few lines of Markdown: how it ended, the scores, the gate, what was asked for."""
    lines = [f"# {tree.get('run', 'run')}: {tree.get('state', 'unknown')}", ""]
    failure = tree.get("failure")
    if failure:
        where = f"{failure['stage']}, loop {failure['loop']} {failure['phase']}"
        lines += [f"**{where}:** {failure['message']}", ""]
    if tree.get("scores"):
        lines += ["| policy | embodied | general |", "|---|---|---|"]
        lines += [f"| {' | '.join(row)} |" for row in score_rows(dict(tree))]
        reasons = tree["scores"][-1].get("reasons", [])
        lines += ["", *(f"- {reason}" for reason in reasons), ""]
        lines += [f"{first_upper(words)}.\n" for words in closing_words(tree)]
    lines += [f"Recipe `{tree.get('recipe')}`, digest `{tree.get('recipe_digest')}`."]
    if tree.get("overrides"):
        lines += ["", f"Overrides: `{json.dumps(tree['overrides'])}`"]
    if tree.get("policy"):
        lines += ["", f"The policy to use: `{tree['policy']}`"]
    return "\n".join(lines) + "\n"


def _eval_prefix(run: str, entry: Mapping[str, Any]) -> str:
    return stage_prefix(run, entry["loop"], "eval", entry["phase"])
