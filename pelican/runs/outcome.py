"""What came of a run: scores, counts, durations, and the few numbers that runs are compared by."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

from pelican.config.recipe import Recipe
from pelican.config.stages import STAGES
from pelican.errors import DamagedError
from pelican.records import Phase
from pelican.runs.findings import Finding, evidence_of, findings, hundredths
from pelican.runs.layout import (
    Offer,
    evaluations,
    last_phase_of,
    last_policy,
    manifests,
    offer_of,
    place_of,
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
            taught += sum(counts.get(f"asked_{o}", 0) for o in ("assoc", "general", "uniform"))
    return sum(read.values()) + taught


def show(store: ObjectStore, run: str) -> dict[str, Any]:
    """All that `pelican show RUN --json` prints; `damaged` has a sentence for each record left out."""
    require_run(store, run)
    errors: list[DamagedError] = []
    found = manifests(store, run, errors.append)
    submission = read_submission(store, run, errors.append)
    recipe = read_recipe(store, run, errors.append)
    failure = read_failure(store, run, errors.append)
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
        **judged(store, found, recipe, errors.append),
        "rl": rl_endings(found, recipe),
        "counts": counts(found),
        "durations": durations(found),
        "seconds": round(sum(m.seconds for m in found), 1),
        "policy": last_policy(found, recipe),
        "base": (recipe.retrain.parent or recipe.models.policy) if recipe else None,
        "report": report_path(store, run),
        "findings": [f.model_dump() for f in read_findings(store, found, threshold, errors.append)],
        "failure": failure.model_dump() if failure else None,
        "damaged": list(dict.fromkeys(map(str, errors))),
    }


def judged(
    store: ObjectStore, found: list[Manifest], recipe: Recipe | None, on_damage: OnDamage = refuse
) -> dict[str, Any]:
    """`scores` of the evaluations that gates read, `sealed` of the others, and `offer`.

    Args:
        store: where the run lies.
        found: its manifests.
        recipe: its recipe, if it can be read.
        on_damage: called with what is damaged.
    """
    offer = offer_of(found, last_phase_of(found, recipe))
    entries = scores(store, found, on_damage)
    for entry in entries:
        entry |= {"stopped": _stopped(entry, recipe), "offered": _is_of(entry, offer.evaluation)}
    sealed = sealed_scores(store, found, on_damage)
    return {"scores": entries, "sealed": sealed, "offer": offer_words(offer)}


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
    return [_scores_of(store, manifest, on_damage) for manifest in evaluations(found)]


def sealed_scores(
    store: ObjectStore, found: Iterable[Manifest], on_damage: OnDamage = refuse
) -> list[dict[str, Any]]:
    """The same of the looks at the sealed set: the base's, then that of the policy that is offered."""
    looks = [m for m in found if m.stage == "eval" and Phase(m.phase).sealed]
    looks.sort(key=lambda m: place_of(m.loop, m.phase))
    return [_scores_of(store, manifest, on_damage) for manifest in looks]


def first_and_last(tree: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The entries by which a run is judged, base and offered: of the sealed set if it was read.

    Raises:
        IndexError: nothing was evaluated.
    """
    if len(tree.get("sealed", ())) == 2:
        base, final = tree["sealed"]
        return base, final
    entries = tree["scores"]
    offered = [entry for entry in entries if entry.get("offered")]
    return entries[0], offered[-1] if offered else entries[-1]


def name_policy(loop: int, phase: str) -> str:
    """`base`, `loop 2, after SFT`."""
    words = Phase(phase).words
    return f"loop {loop}, after {words}" if loop else words


def offer_words(offer: Offer) -> str:
    """What a run offers in place of the policy that its gate refused; empty if none was refused."""
    if offer.refused is None:
        return ""
    kept = offer.evaluation
    instead = f"that of {name_policy(kept.loop, kept.phase)}" if kept and kept.loop else "its base"
    refused = name_policy(offer.refused.loop, offer.refused.phase)
    return f"the gate refused the policy of {refused}; the run offers {instead}"


def closing_words(tree: Mapping[str, Any]) -> list[str]:
    """What a run offers in place of what its gate refused, if anything, and why its RL phases ended."""
    return [words for words in (tree.get("offer", ""), *tree.get("rl", ())) if words]


def _is_of(entry: Mapping[str, Any], evaluation: Manifest | None) -> bool:
    return evaluation is not None and (entry["loop"], entry["phase"]) == (
        evaluation.loop,
        evaluation.phase,
    )


def rl_endings(found: Iterable[Manifest], recipe: Recipe | None) -> list[str]:
    """For each loop why its RL phase ended, as a sentence."""
    phases = sorted((m for m in found if m.stage == "train-rl"), key=lambda m: m.loop)
    return [_rl_ending(manifest, recipe) for manifest in phases]


def _rl_ending(manifest: Manifest, recipe: Recipe | None) -> str:
    name, notes, steps = f"RL of loop {manifest.loop}", manifest.notes, manifest.counts.get("steps")
    if "skipped" in notes:
        return f"{name} trained nothing: {notes['skipped']}"
    if notes.get("stopped", "max_steps") == "max_steps":
        return f"{name} ran all its {steps} steps: {_stillness(manifest, recipe, 'reached')}"
    of = f" of {recipe.rl.max_steps}" if recipe else ""
    return f"{name} stopped after {steps}{of} steps: {_stillness(manifest, recipe, 'was')}"


def _stillness(manifest: Manifest, recipe: Recipe | None, verb: str) -> str:
    """How far success had come to a standstill when RL ended."""
    metrics, stop = manifest.metrics, recipe.rl.stop if recipe else None
    if "probe_slope" in metrics:
        slope, error = metrics["probe_slope"], metrics["probe_error"]
        return f"held-out success moved by {slope:+.1f} ± {error:.1f} points in 100 steps"
    if stop and stop.probes:
        return (
            f"fewer than {stop.probe.windows} probes were made, one every {stop.probe.steps} steps;"
            " a smaller rl.stop.probe.steps makes more"
        )
    if "stagnation" not in metrics:
        return "no window of success rates was full"
    by = " by sample" if stop and stop.of == "samples" else ""
    of = f" of {stop.threshold:g}" if stop else ""
    return f"stagnation{by} {verb} {hundredths(metrics['stagnation'])}{of}"


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
    if summary.sampled:
        entry["sampled"] = {
            suite: {
                "attempts": found.attempts,
                "temperature": found.temperature,
                "greedy": found.greedy.score,
                **{f"p@{k}": one.score for k, one in found.at.items()},
                "majority": found.majority.score,
                "sampled": found.score.score,
            }
            for suite, found in summary.sampled.items()
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
    if not tree["scores"]:
        return metrics
    first, last = first_and_last(tree)
    base = first if not first["loop"] else None
    for name in ("embodied", "general"):
        if last[name] is None:
            continue
        metrics[name] = last[name]
        if f"{name}_chance" in last:
            metrics[f"{name} chance"] = last[f"{name}_chance"]
        if base is not None and base[name] is not None:
            metrics[f"{name} gain"] = last[name] - base[name]
    metrics["loops"] = float(tree["scores"][-1]["loop"])
    metrics["stage minutes"] = round(tree["seconds"] / 60, 2)
    return metrics


def sampled_rows(tree: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """What was sampled beside the greedy answers, as a head and rows of text; no row if nothing was."""
    rows = [
        {"policy": name_policy(entry["loop"], entry["phase"]), "suite": suite}
        | {name: f"{value:g}" if name in _HOW else f"{value:.1f}" for name, value in found.items()}
        for entry in tree["scores"]
        for suite, found in entry.get("sampled", {}).items()
    ]
    head = list(dict.fromkeys(name for row in rows for name in row))
    return head, [[row.get(name, "-") for name in head] for row in rows]


_HOW = ("attempts", "temperature")


def score_rows(tree: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """(policy, embodied, general) as text, for the table at the end of a run."""

    def text(entry: dict[str, Any], name: str) -> str:
        if entry[name] is None:
            return "-"
        low, high = entry.get(f"{name}_interval", (None, None))
        return f"{entry[name]:.1f}" + (f" ({low:.1f} to {high:.1f})" if low is not None else "")

    for kind, after in (("scores", ""), ("sealed", ", sealed")):
        entries = tree.get(kind) or []
        for entry in entries:
            name = name_policy(entry["loop"], entry["phase"])
            yield name, text(entry, "embodied"), text(entry, "general")
        if entries and "embodied_chance" in entries[0]:
            chance, general = entries[0]["embodied_chance"], entries[0].get("general_chance", 0.0)
            yield f"chance{after}", f"{chance:.1f}", f"{general:.1f}"
