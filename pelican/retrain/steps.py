"""The steps of a retraining, as its components call them, and how its end is decided."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import polars as pl

from pelican.config import env
from pelican.config.recipe import Recipe
from pelican.data.frames import read_frame
from pelican.errors import DamagedError, UserInputError
from pelican.evaluation.metrics import read_results
from pelican.evaluation.promotion import DataFacts, judge
from pelican.launch.step import heal_place
from pelican.monitoring.progress import emit
from pelican.registry.export import model_card
from pelican.registry.models import (
    DataUse,
    Decision,
    Lineage,
    ModelVersion,
    MovedError,
    code_version,
    promote,
    read_decisions,
    record_decision,
    register,
    resolve_model,
    set_candidate,
)
from pelican.retrain.data import FACTS, WEAKNESS, Sources, compose, diagnose, take_in
from pelican.retrain.records import Intake, Outcome, Verdict, Weakness, find_version, write_verdict
from pelican.runs.failure import record_failure
from pelican.runs.layout import (
    intake_prefix,
    last_policy,
    manifests,
    practice_prefix,
    prefix_of,
    require_recipe,
    run_prefix,
    stage_prefix,
)
from pelican.runs.outcome import read_scores
from pelican.runs.records import Scores
from pelican.stages.fingerprint import StageIdentity, is_made_from
from pelican.stages.replace import bring_back, drop_aside, set_aside
from pelican.stages.stage import InputIdentity, identify_input, plain_input, resolve_input
from pelican.storage import local_path, open_store
from pelican.storage.manifests import (
    Making,
    Manifest,
    commit_manifest,
    describe_outputs,
    fingerprint,
    now,
    read_manifest,
    versions,
)
from pelican.storage.reading import read_record
from pelican.storage.store import ObjectStore
from pelican.storage.verify import check_local

# The steps: each writes one prefix of the run and commits it last.
#
# A step that finds its manifest with the same fingerprint is done, as a stage is.

Result = TypeVar("Result")


def intake_step(store: str, run: str) -> str:
    """Check and split the new data; returns the parent's checkpoint, which the loops start from."""

    def work(objects: ObjectStore, recipe: Recipe) -> str:
        parent = parent_of(objects, recipe)
        version = find_version(objects, recipe.retrain.data or "")
        old = _old_pools(objects, recipe, parent)
        inputs = {"data": plain_input(version.digest), "parent": plain_input(parent.digest)}
        settings_of = [recipe.retrain.held_share, recipe.data.max_pixels]

        def make(prefix: str) -> dict[str, int]:
            facts = take_in(objects, version, recipe, prefix, old)
            counts = {f"quarantined_{code}": n for code, n in facts.quarantined.items()}
            counts |= {"train": facts.samples, "held": facts.held_samples}
            return {**counts, "files": len(facts.files), "unreadable_files": len(facts.faults)}

        _once(objects, run, "intake", intake_prefix(run), settings_of, inputs, recipe, make)
        facts = read_intake(objects, run)
        said = f"{facts.samples} samples to learn from, {facts.held_samples} held out"
        said += f", {facts.unusable} quarantined" if facts.unusable else ""
        _report("intake", f"{version.name}: {said}")
        return parent.checkpoint

    return _run_step("intake", store, run, work)


def practice_step(store: str, run: str) -> bool:
    """Whether there is a weakness to train against; then the practice and evaluation pools."""

    def work(objects: ObjectStore, recipe: Recipe) -> bool:
        parent = parent_of(objects, recipe)
        where = stage_prefix(run, 0, "filter", "base")
        ledger = read_frame(resolve_input(objects, f"{where}/ledger.parquet"))
        old = _old_pools(objects, recipe, parent)
        new = resolve_input(objects, intake_prefix(run))
        sources = Sources(
            new_train=new / "train",
            new_held=new / "held",
            old_train=_training_pools(objects, recipe, parent),
            old_held=[p for p in old["held"] if p != _pool(recipe.data.general)],
            ledgers=[
                resolve_input(objects, key) for key in parent.lineage.ledgers if objects.exists(key)
            ],
        )
        inputs = {"ledger": identify_input(objects, where), "parent": plain_input(parent.digest)}
        inputs["intake"] = identify_input(objects, intake_prefix(run))
        for number, folder in enumerate([*sources.old_train, *sources.old_held]):
            inputs[f"old-{number}"] = identify_input(objects, str(folder))
        settings_of = [recipe.retrain.model_dump(mode="json"), recipe.seed, recipe.data.max_pixels]

        def make(prefix: str) -> dict[str, int]:
            found = diagnose(ledger, recipe.retrain)
            if found.go_on:
                found = compose(objects, found, ledger, sources, recipe, prefix)
            objects.write(f"{prefix}/{WEAKNESS}", found.model_dump_json(indent=1).encode())
            made = {"weak": found.weak, "new": found.new_rows, "replayed": found.replayed_rows}
            return made | {f"quarantined_{code}": n for code, n in found.left_out.items()}

        _once(objects, run, "practice", practice_prefix(run), settings_of, inputs, recipe, make)
        found = read_weakness(objects, run)
        if found.go_on:
            rows = f"{found.new_rows} new and {found.replayed_rows} earlier samples to practise"
            if found.left_out:
                reasons = ", ".join(f"{n} {code}" for code, n in sorted(found.left_out.items()))
                rows += f"; rows that can't be read: {reasons}"
            _report("diagnosis", f"{found.reason}; {rows}")
        else:
            end_without_weakness(objects, run, recipe, found.reason)
            _report("diagnosis", f"no weakness, nothing is trained: {found.reason}")
        return found.go_on

    return _run_step("practice", store, run, work)


def gate_step(store: str, run: str) -> tuple[str, bool]:
    """The candidate's name, and whether it may be promoted."""

    def work(objects: ObjectStore, recipe: Recipe) -> tuple[str, bool]:
        name, passed = gate(objects, run, recipe)
        _report("gate", f"{name or 'no candidate'}: {'passed' if passed else 'refused'}")
        return name, passed

    return _run_step("gate", store, run, work)


def promote_step(store: str, run: str, version: str) -> str:
    """How the run ended: promoted, or overtaken."""

    def work(objects: ObjectStore, recipe: Recipe) -> str:
        verdict = promote_version(objects, run, recipe, version)
        _report("promote", f"{version}: {verdict.outcome}")
        return verdict.outcome

    return _run_step("promote", store, run, work)


def _pool(where: str) -> Path:
    """A pool of the recipe; what an s3:// URI names as a path of the cache."""
    try:
        return local_path(env.resolve(where))
    except KeyError:
        raise UserInputError(f"there is nothing at {where}; change the recipe's data") from None


def _kept(store: ObjectStore, parent: ModelVersion, where: str) -> Path:
    """A pool of the parent's line; without it nobody could say what is forgotten."""
    if not store.exists(where):
        raise UserInputError(
            f"{parent.name} has learned from {where}, which is not in {store.uri} any more;"
            " restore it, or go on from a model without it"
        )
    return resolve_input(store, where)


def _training_pools(store: ObjectStore, recipe: Recipe, parent: ModelVersion) -> list[Path]:
    uses = [_kept(store, parent, use.train) for use in parent.lineage.data if use.train]
    return [_pool(recipe.data.train), *uses]


def _old_pools(store: ObjectStore, recipe: Recipe, parent: ModelVersion) -> dict[str, list[Path]]:
    """The recipe's pools and those of the data that the parent has learned from, by side.

    `dev`: the questions of a probe that ends RL.
    """
    data = recipe.data
    train = [*_training_pools(store, recipe, parent), _pool(data.replay)]
    held = [_pool(where) for where in (data.evaluation, data.general)]
    held += [_kept(store, parent, use.held) for use in parent.lineage.data if use.held]
    dev = [_pool(data.dev)] if recipe.rl.stop.probes and data.dev else []
    return {"train": train, "held": held, "dev": dev}


def _once(
    store: ObjectStore,
    run: str,
    name: str,
    prefix: str,
    settings_of: object,
    inputs: dict[str, InputIdentity],
    recipe: Recipe,
    make: Callable[[str], dict[str, int]],
) -> None:
    """Call `make` and commit what it wrote below `prefix`, unless that is there already."""
    digests = {name: found.digest for name, found in inputs.items()}
    making = Making(
        settings={"settings": settings_of},
        inputs={name: found.origin for name, found in inputs.items()},
    )
    identity = StageIdentity(fingerprint(name, settings_of, digests), making)
    try:
        done = read_manifest(store, prefix)
    except DamagedError:
        done = None
        set_aside(store, prefix)
    if done is not None:
        if is_made_from(done, identity):
            return
        set_aside(store, prefix)
    store.delete(prefix)  # half done
    if bring_back(store, prefix, lambda found: is_made_from(found, identity)) is not None:
        return
    started = now()
    counts = make(prefix)
    store.delete(f"{prefix}/work")
    manifest = Manifest(
        stage=name,
        run=run,
        loop=0,
        phase="base",
        fingerprint=identity.fingerprint,
        recipe=recipe.digest(),
        inputs=digests,
        outputs=describe_outputs(store, prefix),
        counts=counts,
        started=started,
        finished=now(),
        versions=versions(),
        making=making,
    )
    commit_manifest(store, prefix, manifest)
    drop_aside(store, prefix)


def _run_step(
    name: str, store: str, run: str, work: Callable[[ObjectStore, Recipe], Result]
) -> Result:
    """Run a step with the run's recipe. Ends the process with one sentence on failure."""
    objects = open_store(store)
    with record_failure(objects, run, name):
        try:
            return work(objects, require_recipe(objects, run))
        except DamagedError as error:
            if not error.place or not heal_place(objects, run, name, error.place):
                raise
            return work(objects, require_recipe(objects, run))


def _report(step: str, message: str) -> None:
    emit("event", {"event": "told", "stage": step, "message": message})


# The end of a retraining: judge the newest policy, register it as a candidate, promote it or not.


def gate(store: ObjectStore, run: str, recipe: Recipe) -> tuple[str, bool]:
    """Judge what the loops made against the parent, and register it with the decision.

    Returns the version's name and whether it may be promoted; ("", False) if no loop let a policy
    pass, and then, as for a refusal, writes the verdict.
    """
    found = manifests(store, run)
    parent = parent_of(store, recipe)
    policy = last_policy(found, recipe)
    if policy is None:
        reasons = [reason for m in found if m.stage == "eval" for reason in m.notes.get("gate", [])]
        reason = reasons[-1] if reasons else "nothing was trained"
        _end(store, run, recipe, "refused", None, [f"no loop's policy passed its gate: {reason}"])
        return "", False
    facts = read_intake(store, run)
    trained = next(m for m in found if policy.startswith(prefix_of(m) + "/"))
    result = stage_prefix(run, trained.loop, "eval", trained.phase)
    evaluated = next(m for m in found if prefix_of(m) == result)
    checks = judge(
        read_results(resolve_input(store, f"{run_prefix(run)}/loop-0/eval-base")),
        read_results(resolve_input(store, result)),
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
    lineage = _lineage(store, run, recipe, parent, facts, found, evaluated)
    card = model_card(parent.model, lineage, decision)
    checkpoint = store.local(policy)
    check_local(store, policy, checkpoint, trust=False)
    version = register(store, parent.model, checkpoint, lineage, card)
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
    found = read_record(store, f"{intake_prefix(run)}/{FACTS}", Intake)
    if found is None:
        raise UserInputError(f"run {run!r} has no intake in {store.uri}; run it from its start")
    return found


def read_weakness(store: ObjectStore, run: str) -> Weakness:
    found = read_record(store, f"{practice_prefix(run)}/{WEAKNESS}", Weakness)
    if found is None:
        raise UserInputError(f"run {run!r} has no diagnosis in {store.uri}; run it from its start")
    return found


def _agreement(
    store: ObjectStore, found: list[Manifest], version: str
) -> tuple[tuple[int, int], tuple[int, int]]:
    """The teacher's (accepted, asked) over all loops: on new samples, and on earlier ones."""
    frames = [
        read_frame(resolve_input(store, f"{prefix_of(m)}/teacher.parquet"))
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
    evaluated: Manifest,
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
    ledgers = [f"{prefix_of(m)}/ledger.parquet" for m in found if m.stage == "filter"]
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
        scores=_scores(read_scores(store, evaluated)),
        report=f"{run_prefix(run)}/report.html",
    )


def _scores(summary: Scores) -> dict[str, Any]:
    found = {"embodied": summary.embodied, "general": summary.general}
    found |= {f"family {name}": score for name, score in summary.families.items()}
    found |= {f"set {name}": score for name, score in summary.benchmarks.items()}
    return {name: score.model_dump() for name, score in found.items() if score}


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
