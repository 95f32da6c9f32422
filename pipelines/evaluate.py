"""Held-out scores of one policy: the recipe's `models.policy`."""

from typing import Any

from kfp import dsl

from pelican.recipe import Recipe
from pelican.records import Phase
from pipelines.parts import Stages, checked, summarised


def build(config: Recipe) -> Any:
    """Preflight, one evaluation, summary."""

    @dsl.pipeline(name="evaluate", description=__doc__)
    def evaluate(store: str, run: str, recipe: str) -> None:
        with summarised(store, run, "evaluate"):
            policy = checked(store, run, recipe)
            Stages(store, run, 0, Phase.BASE).evaluate(policy)

    return evaluate
