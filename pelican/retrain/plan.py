"""What a call for a retraining means: the run that it is, named by data, model version and recipe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pelican.config.presets import find_recipe, for_pipeline
from pelican.config.recipe import Recipe
from pelican.registry.models import ModelVersion, resolve_model
from pelican.retrain.records import find_version
from pelican.storage.store import ObjectStore


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
