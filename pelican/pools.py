"""Where the stages of a run find their pools: a retraining has them in the run, not in the recipe."""

from __future__ import annotations

from pelican.recipe import Recipe
from pelican.runs import run_prefix


def intake_prefix(run: str) -> str:
    return f"{run_prefix(run)}/retrain/intake"


def practice_prefix(run: str) -> str:
    return f"{run_prefix(run)}/retrain/practice"


def pool_of(recipe: Recipe, run: str, stage: str, loop: int, field: str) -> str | None:
    """The prefix that stands for a field of the recipe's data section, or None: as the recipe says.

    The diagnosis (loop 0) sees the new data; the loops see the practice set; every evaluation is on
    the old and the new held-out sets.
    """
    if recipe.retrain.data is None:
        return None
    if field == "data.train":
        return f"{practice_prefix(run)}/train" if loop else f"{intake_prefix(run)}/train"
    if field == "data.evaluation" and stage == "eval":
        return f"{practice_prefix(run)}/evaluation"
    return None
