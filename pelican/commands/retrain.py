"""`pelican retrain --data VERSION --from MODEL`: one call that any trigger may make, and make again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pelican import settings
from pelican.errors import PelicanError, UserInputError
from pelican.recipe import Recipe
from pelican.recipes import find_recipe, for_pipeline
from pelican.registry.aliases import resolve_model
from pelican.registry.versions import ModelVersion
from pelican.retrain.records import Verdict, read_verdict
from pelican.retrain.versions import find_version
from pelican.runs import state
from pelican.storage.objects import ObjectStore, open_store

REASONS = 6  # of a verdict, shown


def retrain(
    data: str | None,
    model: str | None,
    address: str,
    overrides: Sequence[str],
    store: str | None,
    launcher: str,
) -> None:
    """Retrain `model` on `data`, once: the same call again continues the run, or tells its verdict."""
    if not data or not model:
        raise UserInputError(
            "a retraining needs new data and a model to go on from:"
            " `pelican retrain --data VERSION --from MODEL`; with make: DATA=… FROM=…"
        )
    objects = open_store(settings.store_uri(store))
    plan = plan_of(objects, data, model, address, overrides)
    if plan.learned:
        print(f"{plan.parent} has learned from {plan.data} already; nothing to do")
        return
    verdict = read_verdict(objects, plan.run)
    now = state(objects, plan.run)
    if now == "running":
        print(f"run {plan.run} is under way; `pelican show {plan.run}` tells how far it is")
        return
    if verdict is None or now != "complete":
        from pelican.commands.submit import submit

        # A run that nobody follows to its end would be taken for lost.
        submit("retrain", address, plan.overrides, plan.run, store, launcher, wait=True)
        verdict = read_verdict(objects, plan.run)
    else:
        print(f"run {plan.run} is complete")
    if verdict is None:
        raise PelicanError(f"run {plan.run} ended without a verdict; `pelican show {plan.run}`")
    print_verdict(verdict)


@dataclass(frozen=True)
class Plan:
    """A retraining by its run's name, which data, model version and recipe determine."""

    run: str
    data: str
    parent: str
    overrides: list[str]
    learned: bool


def plan_of(
    store: ObjectStore, data: str, model: str, address: str, overrides: Sequence[str]
) -> Plan:
    """What a call means. Raises UserInputError for data, a model or a recipe that is not there."""
    version, parent = find_version(store, data), resolve_model(store, model)
    wanted = [*overrides, f"retrain.data={version.name}", f"retrain.parent={parent.name}"]
    recipe = for_pipeline("retrain", find_recipe(address, wanted))
    learned = any(use.digest == version.digest for use in parent.lineage.data)
    return Plan(run_name(parent, recipe), version.name, parent.name, wanted, learned)


def run_name(parent: ModelVersion, recipe: Recipe) -> str:
    """The same for the same model version, data and recipe: what makes the call idempotent."""
    return f"retrain-{parent.model[:24].rstrip('-')}-{parent.version}-{recipe.digest()[:10]}"


def print_verdict(verdict: Verdict) -> None:
    """What became of the model, and why."""
    said = {
        "promoted": f"{verdict.version} is current",
        "refused": f"refused; {verdict.parent} stays current",
        "no weakness": f"nothing to learn; {verdict.parent} stays current",
        "overtaken": f"{verdict.version} passed, but another version became current meanwhile",
    }
    print(f"verdict {said[verdict.outcome]}")
    for reason in verdict.reasons[:REASONS]:
        print(f"        {reason}")
    if len(verdict.reasons) > REASONS:
        print(f"        and {len(verdict.reasons) - REASONS} more; `pelican models show` has them")
