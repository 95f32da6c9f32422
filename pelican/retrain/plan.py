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
    """The run that a call stands for. Raises UserInputError for unknown data, model or recipe."""
    version, parent = find_version(store, data), resolve_model(store, model)
    wanted = [*overrides, f"retrain.data={version.name}", f"retrain.parent={parent.name}"]
    recipe = for_pipeline("retrain", find_recipe(address, wanted))
    learned = any(use.digest == version.digest for use in parent.lineage.data)
    return Plan(run_name(parent, recipe), version.name, parent.name, wanted, learned)


def run_name(parent: ModelVersion, recipe: Recipe) -> str:
    """The run's name. It follows from model version, data and recipe, so that a call may be repeated."""
    return f"retrain-{parent.model[:24].rstrip('-')}-{parent.version}-{recipe.digest()[:10]}"
