"""Stages as benchmarks run them: on the whole train pool, with the recipe's base as the policy."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from pelican.config.env import resolve
from pelican.config.recipe import Recipe
from pelican.data.pool import read_index
from pelican.records import Phase
from pelican.stages.stage import StageName, StageSpec


def stage_spec(
    stage: StageName, recipe: Recipe, store: Path, buffer: Path | None = None
) -> StageSpec:
    """The specification of a stage of the first RL phase; train-rl needs a `buffer`."""
    inputs = {"policy": resolve(recipe.models.policy), "pool": resolve(recipe.data.train)}
    if buffer is not None:
        inputs["buffer"] = str(buffer)
    return StageSpec(
        stage=stage,
        store=str(store),
        run="bench",
        loop=1,
        phase=Phase.RL,
        output=f"runs/bench/loop-1/{stage}-rl",
        inputs=inputs,
        recipe=recipe,
    )


def write_buffer(folder: Path, recipe: Recipe, samples: int | None = None) -> Path:
    """A buffer of the first samples of the train pool, all if None, in a new folder."""
    ids = [entry.id for entry in read_index(Path(resolve(recipe.data.train))).entries[:samples]]
    folder.mkdir(parents=True)
    pl.DataFrame({"sample_id": ids}).write_parquet(folder / "buffer.parquet")
    return folder
