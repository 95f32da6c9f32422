"""What came of a run: scores, counts, durations, and the few numbers that runs are compared by."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

from pelican.config.recipe import Recipe
from pelican.config.stages import STAGES
from pelican.errors import DamagedError
from pelican.records import Phase
from pelican.runs.findings import Finding, evidence_of, findings
from pelican.runs.layout import (
    PHASES,
    last_policy,
    manifests,
    prefix_of,
    read_failure,
    read_recipe,
    read_submission,
    require_run,
    run_prefix,
    state,
)
from pelican.runs.records import Score, Scores
from pelican.storage.manifests import Manifest
from pelican.storage.reading import OnDamage, read_record, refuse
from pelican.storage.store import ObjectStore


def tokens(found: Iterable[Manifest], kind: Literal["generated", "trained"]) -> int:
    """The tokens of all finished stages in `found`.

    `generated` sums those of rollouts, RL and the teacher; `trained` those that RL and SFT learned
    from, a token counting once for every epoch.
    """
    counted = {row.name: getattr(row, kind) for row in STAGES.values() if getattr(row, kind)}
    return sum(m.counts.get(counted[m.stage], 0) for m in found if m.stage in counted)


def flops(found: Iterable[Manifest]) -> float | None:
    """Floating-point operations of all finished stages in `found`, reckoned from their tokens.

    Two a parameter for a token that is computed forward (generated, or of a prompt, once for all
    completions of it, or by RL's reference or perception loss), six for one that is trained on, prompts included:
    Kaplan et al., "Scaling Laws for Neural Language Models" (arXiv 2001.08361), section 2.1. Attention
    over the context and the vision tower's patches are left out. Evaluations are a cost of measuring,
    and are not counted.

    Returns:
        None if a stage doesn't tell all: one of before these counts, or a teacher at an endpoint.
    """
    whole = 0.0
    for manifest in found:
        row = STAGES.get(manifest.stage)
        if row is None or not (row.generated or row.trained):
            continue
        if "skipped" in manifest.notes:  # RL with nothing to practise computed nothing, nor counted
            continue
        forward = [name for name in (row.generated, *row.read) if name]
        backward = [name for name in (row.trained, row.prompts_trained) if name]
        parameters = manifest.notes.get("resources", {}).get("parameters")
        counts = manifest.counts
        if parameters is None or not {*forward, *backward} <= counts.keys():
            return None
        computed = 2 * sum(counts[name] for name in forward)
        whole += parameters * (computed + 6 * sum(counts[name] for name in backward))
    return whole


def labels(found: Iterable[Manifest]) -> int:
    """Questions whose answers a run read, to reward or to verify: over its loops, in each once."""
    read: defaultdict[int, int] = defaultdict(int)
    taught = 0
    for manifest in found:
        counts, loop = manifest.counts, manifest.loop
        if manifest.stage == "rollout":  # what phase sft rolls out has what phase rl did
            read[loop] = max(read[loop], counts.get("samples", 0))
        elif manifest.stage == "distill":
            taught += counts.get("asked_assoc", 0) + counts.get("asked_general", 0)
    return sum(read.values()) + taught


def show(store: ObjectStore, run: str) -> dict[str, Any]:
    """All that `pelican show RUN --json` prints; `damaged` has a sentence for each record left out."""
    require_run(store, run)
    errors: list[DamagedError] = []
    found = manifests(store, run, errors.append)
    submission = read_submission(store, run, errors.append)
    recipe = read_recipe(store, run, errors.append)
    failure = read_failure(store, run, errors.append)
    entries = scores(store, found, errors.append)
    threshold = recipe.rl.stop.threshold if recipe else None
    return {
        "run": run,
        "state": state(store, run, errors.append),
        "pipeline": submission.pipeline if submission else None,
        "address": submission.address if submission else None,
        "recipe": recipe.name if recipe else None,
        "recipe_digest": recipe.digest() if recipe else None,
        "overrides": submission.overrides if submission else [],
        "submitted": submission.submitted.isoformat() if submission else None,
        "scores": [entry | {"stopped": _stopped(entry, recipe)} for entry in entries],
        "counts": counts(found),
        "durations": durations(found),
        "seconds": round(sum(m.seconds for m in found), 1),
        "policy": last_policy(found),
        "report": report_path(store, run),
        "findings": [f.model_dump() for f in read_findings(store, found, threshold, errors.append)],
        "failure": failure.model_dump() if failure else None,
        "damaged": list(dict.fromkeys(map(str, errors))),
    }


def read_findings(
    store: ObjectStore, found: Iterable[Manifest], threshold: float | None, on_damage: OnDamage
) -> list[Finding]:
    """What the manifests and evaluations of a run say is wrong."""
    evidence = evidence_of(list(found), lambda m: read_scores(store, m, on_damage), threshold)
    return findings(evidence)


def _stopped(entry: Mapping[str, Any], recipe: Recipe | None) -> bool:
    """Whether this evaluation's gate kept the run from another loop."""
    if entry.get("go_on", True) or recipe is None:
        return False
    return recipe.can_stop_after(entry["loop"], Phase(entry["phase"]))


def scores(
    store: ObjectStore, found: Iterable[Manifest], on_damage: OnDamage = refuse
) -> list[dict[str, Any]]:
    """One entry for every evaluation: loop, phase, embodied, general, per family and dimension."""
    evaluations = [m for m in found if m.stage == "eval"]
    evaluations.sort(key=lambda m: (m.loop, PHASES.index(m.phase)))
    return [_scores_of(store, manifest, on_damage) for manifest in evaluations]


_SHOWN = {"score", "low", "high", "n", "chance"}  # of an estimate


def read_scores(store: ObjectStore, of: Manifest, on_damage: OnDamage = refuse) -> Scores:
    """What an evaluation's `summary.json` says; nothing if it is absent."""
    key = f"{prefix_of(of)}/summary.json"
    sha256 = {output.path: output.sha256 for output in of.outputs}.get("summary.json")
    return read_record(store, key, Scores, on_damage, sha256=sha256) or Scores()


def _scores_of(store: ObjectStore, manifest: Manifest, on_damage: OnDamage) -> dict[str, Any]:
    entry: dict[str, Any] = {"loop": manifest.loop, "phase": manifest.phase}
    summary = read_scores(store, manifest, on_damage)
    for name, score in (("embodied", summary.embodied), ("general", summary.general)):
        entry[name] = manifest.metrics.get(name, score.score if score else None)
        if score:
            entry[f"{name}_interval"] = [score.low, score.high]
            entry[f"{name}_chance"] = score.chance
    for name in ("families", "dimensions", "benchmarks", "horizons"):
        found: dict[str, Score] = getattr(summary, name)
        entry[name] = {
            key: score.model_dump(include=_SHOWN) for key, score in sorted(found.items())
        }
    entry["against"] = {
        name: compared.model_dump(include={"embodied", "general"})
        for name, compared in summary.comparisons.items()
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


def report_path(store: ObjectStore, run: str) -> str | None:
    """Where the run's report lies, if it was written."""
    key = f"{run_prefix(run)}/report.html"
    return str(store.local(key)) if store.exists(key) else None


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
