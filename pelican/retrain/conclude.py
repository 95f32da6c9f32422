"""The end of a retraining: judge the newest policy, register it as a candidate, promote it or not."""

from __future__ import annotations

from typing import Any

import polars as pl

from pelican.errors import UserInputError
from pelican.evaluation.promotion import DataFacts, judge
from pelican.evaluation.results import read_results
from pelican.pools import intake_prefix
from pelican.recipe import Recipe
from pelican.registry.aliases import MovedError, promote, resolve_model, set_candidate
from pelican.registry.card import model_card
from pelican.registry.decisions import Decision, read_decisions, record_decision
from pelican.registry.versions import (
    DataUse,
    Lineage,
    ModelVersion,
    code_version,
    register,
)
from pelican.retrain.intake import FACTS
from pelican.retrain.records import Intake, Outcome, Verdict, write_verdict
from pelican.runs import last_policy, manifests, read_json, run_prefix, stage_prefix
from pelican.storage.manifests import Manifest, now
from pelican.storage.objects import ObjectStore


def gate(store: ObjectStore, run: str, recipe: Recipe) -> tuple[str, bool]:
    """Judge what the loops made against the parent, and register it with the decision.

    Returns the version's name and whether it may be promoted; ("", False) if no loop let a policy
    pass, and then, as for a refusal, writes the verdict.
    """
    found = manifests(store, run)
    parent = parent_of(store, recipe)
    policy = last_policy(found)
    if policy is None:
        reasons = [reason for m in found if m.stage == "eval" for reason in m.notes.get("gate", [])]
        told = reasons[-1:] or ["nothing was trained"]
        _end(store, run, recipe, "refused", None, [f"no loop's policy passed its gate: {told[0]}"])
        return "", False
    facts = read_intake(store, run)
    trained = next(m for m in found if policy.startswith(_prefix(m) + "/"))
    result = stage_prefix(run, trained.loop, "eval", trained.phase)
    checks = judge(
        read_results(store.local(f"{run_prefix(run)}/loop-0/eval-base")),
        read_results(store.local(result)),
        f"{facts.version}/",
        DataFacts(facts.rows, facts.unusable, *_agreement(store, found, facts.version)),
        recipe.gate,
        resamples=recipe.eval.bootstrap,
        seed=recipe.seed,
    )
    decision = Decision(
        kind="gate",
        passed=all(check.passed for check in checks),
        against=parent.name,
        checks=checks,
        by=f"run {run}",
        at=now(),
    )
    lineage = _lineage(store, run, recipe, parent, facts, found, result)
    card = model_card(parent.model, lineage, decision)
    version = register(store, parent.model, store.local(policy), lineage, card)
    record_decision(store, version.model, version.version, decision)
    set_candidate(store, version.model, version.version, decision.by)
    if not decision.passed:
        _end(store, run, recipe, "refused", version, decision.reasons, decision)
    return version.name, decision.passed


def promote_version(store: ObjectStore, run: str, recipe: Recipe, name: str) -> Verdict:
    """Make a version that passed the current one, unless another was faster; ends the run."""
    version, parent = resolve_model(store, name), parent_of(store, recipe)
    decisions = read_decisions(store, version.model, version.version)
    decision = next(d for d in decisions if d.kind == "gate")
    by = f"run {run}"
    try:
        promote(store, version.model, version.version, by, parent.version, decision.reasons[0])
    except MovedError as error:
        return _end(store, run, recipe, "overtaken", version, [str(error)], decision)
    return _end(store, run, recipe, "promoted", version, decision.reasons, decision)


def end_without_weakness(store: ObjectStore, run: str, recipe: Recipe, reason: str) -> Verdict:
    """The parent already masters the new data: nothing is trained, and that is said."""
    return _end(store, run, recipe, "no weakness", None, [reason])


def parent_of(store: ObjectStore, recipe: Recipe) -> ModelVersion:
    """The version that a retraining goes on from."""
    if recipe.retrain.parent is None:
        raise UserInputError(
            "the recipe names no retrain.parent; `pelican retrain --data VERSION --from MODEL` does"
        )
    return resolve_model(store, recipe.retrain.parent)


def read_intake(store: ObjectStore, run: str) -> Intake:
    tree = read_json(store, f"{intake_prefix(run)}/{FACTS}")
    if tree is None:
        raise UserInputError(f"run {run!r} has no intake in {store.uri}; run it from its start")
    return Intake.model_validate(tree)


def _prefix(manifest: Manifest) -> str:
    return stage_prefix(manifest.run, manifest.loop, manifest.stage, manifest.phase)


def _agreement(
    store: ObjectStore, found: list[Manifest], version: str
) -> tuple[tuple[int, int], tuple[int, int]]:
    """The teacher's (accepted, asked) over all loops: on new samples, and on earlier ones."""
    frames = [
        pl.read_parquet(store.local(f"{_prefix(m)}/teacher.parquet"))
        for m in found
        if m.stage == "distill"
    ]
    if not frames:
        return (0, 0), (0, 0)
    asked = pl.concat(frames).filter(pl.col("pool") == "pool")
    new = pl.col("sample_id").str.starts_with(f"{version}/")

    def count(rows: pl.DataFrame) -> tuple[int, int]:
        return int(rows["accepted"].sum()), len(rows)

    return count(asked.filter(new)), count(asked.filter(~new))


def _lineage(
    store: ObjectStore,
    run: str,
    recipe: Recipe,
    parent: ModelVersion,
    facts: Intake,
    found: list[Manifest],
    result: str,
) -> Lineage:
    use = DataUse(
        version=facts.version,
        digest=facts.digest,
        train=f"{intake_prefix(run)}/train",
        held=f"{intake_prefix(run)}/held",
        samples=facts.samples,
        held_samples=facts.held_samples,
        quarantined=facts.unusable,
    )
    ledgers = [f"{_prefix(m)}/ledger.parquet" for m in found if m.stage == "filter"]
    return Lineage(
        origin="run",
        source=f"run {run}",
        parent=parent.name,
        run=run,
        recipe=recipe.digest(),
        recipe_name=recipe.name,
        code=code_version(),
        data=[*parent.lineage.data, use],
        ledgers=[*parent.lineage.ledgers, *ledgers],
        scores=_scores(read_json(store, f"{result}/summary.json") or {}),
        report=f"{run_prefix(run)}/report.html",
    )


def _scores(summary: dict[str, Any]) -> dict[str, Any]:
    scores = {name: summary[name] for name in ("embodied", "general") if summary.get(name)}
    scores |= {f"family {name}": s for name, s in (summary.get("families") or {}).items()}
    return scores | {f"set {name}": s for name, s in (summary.get("benchmarks") or {}).items()}


def _end(
    store: ObjectStore,
    run: str,
    recipe: Recipe,
    outcome: Outcome,
    version: ModelVersion | None,
    reasons: list[str],
    decision: Decision | None = None,
) -> Verdict:
    checks = decision.checks if decision else []
    verdict = Verdict(
        outcome=outcome,
        run=run,
        data=recipe.retrain.data or "",
        parent=recipe.retrain.parent or "",
        version=version.name if version else None,
        reasons=reasons,
        numbers={f"{c.name}/{k}": v for c in checks for k, v in c.numbers.items() if v == v},
        at=now(),
    )
    return write_verdict(store, verdict)
