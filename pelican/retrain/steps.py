"""What the components of a retraining call: each writes one prefix of the run and commits it last.

A step that finds its manifest with the same fingerprint is done, as a stage is.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import polars as pl

from pelican import settings
from pelican.errors import UserInputError
from pelican.failure import told
from pelican.pools import intake_prefix, practice_prefix
from pelican.recipe import Recipe
from pelican.registry.versions import ModelVersion
from pelican.retrain.conclude import (
    end_without_weakness,
    gate,
    parent_of,
    promote_version,
    read_intake,
)
from pelican.retrain.intake import take_in
from pelican.retrain.practice import WEAKNESS, Sources, compose, diagnose
from pelican.retrain.records import Weakness
from pelican.retrain.versions import find_version
from pelican.runs import read_json, require_recipe, stage_prefix
from pelican.stages.inputs import input_digest
from pelican.storage.manifests import (
    Manifest,
    commit_manifest,
    describe_outputs,
    fingerprint,
    now,
    read_manifest,
    versions,
)
from pelican.storage.objects import ObjectStore, local_path, open_store
from pelican.telemetry.events import emit

Result = TypeVar("Result")


def intake_step(store: str, run: str) -> str:
    """Check and split the new data; returns the parent's checkpoint, which the loops start from."""

    def work(objects: ObjectStore, recipe: Recipe) -> str:
        parent = parent_of(objects, recipe)
        version = find_version(objects, recipe.retrain.data or "")
        old = _old_pools(objects, recipe, parent)
        inputs = {"data": version.digest, "parent": parent.digest}
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
        _tell("intake", f"{version.name}: {said}")
        return parent.checkpoint

    return _guarded("intake", store, run, work)


def practice_step(store: str, run: str) -> bool:
    """Whether there is a weakness to train against; then the practice and evaluation pools."""

    def work(objects: ObjectStore, recipe: Recipe) -> bool:
        parent = parent_of(objects, recipe)
        where = stage_prefix(run, 0, "filter", "base")
        ledger = pl.read_parquet(objects.local(f"{where}/ledger.parquet"))
        old = _old_pools(objects, recipe, parent)
        new = objects.local(intake_prefix(run))
        sources = Sources(
            new_train=new / "train",
            new_held=new / "held",
            old_train=_training_pools(objects, recipe, parent),
            old_held=[p for p in old["held"] if p != _pool(recipe.data.general)],
            ledgers=[objects.local(key) for key in parent.lineage.ledgers if objects.exists(key)],
        )
        inputs = {"ledger": input_digest(objects, where), "parent": parent.digest}
        inputs["intake"] = input_digest(objects, intake_prefix(run))
        for number, folder in enumerate([*sources.old_train, *sources.old_held]):
            inputs[f"old-{number}"] = input_digest(objects, str(folder))
        settings_of = [recipe.retrain.model_dump(mode="json"), recipe.seed, recipe.data.max_pixels]

        def make(prefix: str) -> dict[str, int]:
            found = diagnose(ledger, recipe.retrain)
            if found.go_on:
                found = compose(objects, found, ledger, sources, recipe, prefix)
            objects.write(f"{prefix}/{WEAKNESS}", found.model_dump_json(indent=1).encode())
            made = {"weak": found.weak, "new": found.new_rows, "replayed": found.replayed_rows}
            return made | {f"quarantined_{code}": n for code, n in found.left_out.items()}

        _once(objects, run, "practice", practice_prefix(run), settings_of, inputs, recipe, make)
        found = Weakness.model_validate(read_json(objects, f"{practice_prefix(run)}/{WEAKNESS}"))
        if found.go_on:
            rows = f"{found.new_rows} new and {found.replayed_rows} earlier samples to practise"
            if found.left_out:
                reasons = ", ".join(f"{n} {code}" for code, n in sorted(found.left_out.items()))
                rows += f"; rows that can't be read: {reasons}"
            _tell("diagnosis", f"{found.reason}; {rows}")
        else:
            end_without_weakness(objects, run, recipe, found.reason)
            _tell("diagnosis", f"no weakness, nothing is trained: {found.reason}")
        return found.go_on

    return _guarded("practice", store, run, work)


def gate_step(store: str, run: str) -> tuple[str, bool]:
    """The candidate's name, and whether it may be promoted."""

    def work(objects: ObjectStore, recipe: Recipe) -> tuple[str, bool]:
        name, passed = gate(objects, run, recipe)
        _tell("gate", f"{name or 'no candidate'}: {'passed' if passed else 'refused'}")
        return name, passed

    return _guarded("gate", store, run, work)


def promote_step(store: str, run: str, version: str) -> str:
    """How the run ended: promoted, or overtaken."""

    def work(objects: ObjectStore, recipe: Recipe) -> str:
        verdict = promote_version(objects, run, recipe, version)
        _tell("promote", f"{version}: {verdict.outcome}")
        return verdict.outcome

    return _guarded("promote", store, run, work)


def _pool(where: str) -> Path:
    """A pool of the recipe; what an s3:// URI names as a path of the cache."""
    try:
        return local_path(settings.resolve(where))
    except KeyError:
        raise UserInputError(f"there is nothing at {where}; change the recipe's data") from None


def _kept(store: ObjectStore, parent: ModelVersion, where: str) -> Path:
    """A pool of the parent's line; without it nobody could say what is forgotten."""
    try:
        return store.local(where)
    except KeyError:
        raise UserInputError(
            f"{parent.name} has learned from {where}, which is not in {store.uri} any more;"
            " restore it, or go on from a model without it"
        ) from None


def _training_pools(store: ObjectStore, recipe: Recipe, parent: ModelVersion) -> list[Path]:
    uses = [_kept(store, parent, use.train) for use in parent.lineage.data if use.train]
    return [_pool(recipe.data.train), *uses]


def _old_pools(store: ObjectStore, recipe: Recipe, parent: ModelVersion) -> dict[str, list[Path]]:
    """The recipe's pools and those of the data that the parent has learned from, by side."""
    data = recipe.data
    train = [*_training_pools(store, recipe, parent), _pool(data.replay)]
    held = [_pool(where) for where in (data.evaluation, data.general)]
    held += [_kept(store, parent, use.held) for use in parent.lineage.data if use.held]
    return {"train": train, "held": held}


def _once(
    store: ObjectStore,
    run: str,
    name: str,
    prefix: str,
    settings_of: object,
    inputs: dict[str, str],
    recipe: Recipe,
    make: Callable[[str], dict[str, int]],
) -> None:
    """Call `make` and commit what it wrote below `prefix`, unless that is there already."""
    identity = fingerprint(name, settings_of, inputs)
    done = read_manifest(store, prefix)
    if done is not None and done.fingerprint == identity:
        return
    store.delete(prefix)
    started = now()
    counts = make(prefix)
    store.delete(f"{prefix}/work")
    manifest = Manifest(
        stage=name,
        run=run,
        loop=0,
        phase="base",
        fingerprint=identity,
        recipe=recipe.digest(),
        inputs=inputs,
        outputs=describe_outputs(store, prefix),
        counts=counts,
        started=started,
        finished=now(),
        versions=versions(),
    )
    commit_manifest(store, prefix, manifest)


def _guarded(
    name: str, store: str, run: str, work: Callable[[ObjectStore, Recipe], Result]
) -> Result:
    """Run a step with the run's recipe. Ends the process with one sentence on failure."""
    objects = open_store(store)
    with told(objects, run, name):
        return work(objects, require_recipe(objects, run))


def _tell(step: str, message: str) -> None:
    emit("event", {"event": "told", "stage": step, "message": message})
