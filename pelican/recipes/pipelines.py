"""The pipelines by name; some are the metaloop of a recipe that an ablation changed."""

from __future__ import annotations

from collections.abc import Callable

from pelican.errors import UserInputError
from pelican.recipe import Recipe
from pelican.recipes import ablations
from pelican.recipes.overrides import nearest


def metaloop(recipe: Recipe) -> Recipe:
    """RL, then SFT, in every loop, with an evaluation after each: DPPO."""
    return recipe


def evaluate(recipe: Recipe) -> Recipe:
    """Held-out scores of models.policy; nothing is trained."""
    return recipe


def retrain(recipe: Recipe) -> Recipe:
    """New data in, a gated model out: with --data and --from, or `pelican retrain`."""
    return recipe


def rl_only(recipe: Recipe) -> Recipe:
    """The metaloop without its SFT phases."""
    return ablations.rl_only(recipe) if recipe.sft.enabled else recipe


def sft_only(recipe: Recipe) -> Recipe:
    """The metaloop without its RL phases."""
    return ablations.sft_only(recipe) if recipe.rl.enabled else recipe


PIPELINES: dict[str, Callable[[Recipe], Recipe]] = {
    "metaloop": metaloop,
    "evaluate": evaluate,
    "retrain": retrain,
    "rl_only": rl_only,
    "sft_only": sft_only,
}
# Of many runs: no graph, so that only `pelican submit` takes the name.
SETS = {
    "ablations": "Every variant below, seeds 0, 1, 2, and their table in docs/results.md: days."
}


def for_pipeline(pipeline: str, recipe: Recipe) -> Recipe:
    """The recipe that `pipeline` runs: `rl_only` is the metaloop without SFT, and so on."""
    if pipeline in SETS:
        raise UserInputError(
            f"{pipeline!r} is a set of runs, no pipeline of its own; `pelican submit --pipeline"
            f" {pipeline}` runs it"
        )
    if pipeline not in PIPELINES:
        known = [*PIPELINES, *SETS]
        raise UserInputError(f"there is no pipeline {pipeline!r}{nearest(pipeline, known)}")
    return PIPELINES[pipeline](recipe)
