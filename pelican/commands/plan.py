"""`pelican plan`: memory, tokens, hours and storage of a recipe, or why it can't run."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from pelican import settings
from pelican.commands.tables import rows_table
from pelican.errors import UserInputError
from pelican.planning.estimate import GPUS, Load
from pelican.planning.plan import Plan, make_plan
from pelican.recipe import Recipe
from pelican.recipes import find_recipe
from pelican.recipes.overrides import nearest

_PIXELS_PER_TOKEN = 28 * 28  # of Qwen2.5-VL: patches of 14, merged two by two
_TEXT_TOKENS = 256  # of a question, with the system prompt


def print_plan(
    address: str,
    overrides: list[str],
    *,
    nodes: int,
    gpus_per_node: int,
    gpu: str,
    samples: int | None,
    prompt_tokens: int | None,
    completion_tokens: int | None,
    as_json: bool,
) -> None:
    """Raises UserInputError, after the table, if a stage can't fit."""
    if gpu not in GPUS:
        raise UserInputError(f"there is no GPU {gpu!r}{nearest(gpu, GPUS)}")
    recipe = find_recipe(address, overrides)
    load = Load(
        samples=samples or _samples(recipe),
        prompt=prompt_tokens or recipe.data.max_pixels // _PIXELS_PER_TOKEN + _TEXT_TOKENS,
        completion=completion_tokens or recipe.rl.sampling.max_tokens,
    )
    plan = make_plan(recipe, gpu, nodes, gpus_per_node, load)
    if as_json:
        print(json.dumps(asdict(plan) | {"hours": plan.hours}, indent=1))
    else:
        _print(plan, gpu)
    if plan.refusals:
        raise UserInputError("; ".join(plan.refusals))


def _samples(recipe: Recipe) -> int:
    """Of one loop: what the recipe says, else what the pool has."""
    if recipe.data.samples_per_loop is not None:
        return recipe.data.samples_per_loop
    folder = Path(settings.resolve(recipe.data.train))
    shards = sorted(folder.glob("**/*.parquet"))
    if not shards:
        raise UserInputError(
            f"data.train = {recipe.data.train!r} is not here and data.samples_per_loop is not set;"
            " give --samples"
        )
    import pyarrow.parquet as pq

    return sum(pq.read_metadata(shard).num_rows for shard in shards)


def _print(plan: Plan, gpu: str) -> None:
    shape, load = plan.shape, plan.load
    print(
        f"{shape.name}: {shape.total / 1e9:.2f} B parameters ({shape.vision / 1e9:.2f} B of them the"
        f" tower); {load.samples} samples a loop, prompts of {load.prompt} tokens, completions of"
        f" {load.completion}"
    )
    rows_table(
        ["stage", "GPUs", f"GB of {plan.gpu.memory / 1e9:.0f}", "tokens a step", "hours"],
        [
            [s.stage, str(s.gpus), f"{s.bytes / 1e9:.1f}", str(s.tokens_per_step), f"{s.hours:.1f}"]
            for s in plan.stages
        ],
    )
    for stage in plan.stages:
        parts = ", ".join(f"{name} {size / 1e9:.1f}" for name, size in stage.memory.items())
        print(f"  {stage.stage}: {parts}")
    stored = ", ".join(f"{name} {size / 1e9:.1f} GB" for name, size in plan.storage.items())
    print(f"storage: {stored}")
    print(f"all stages: {plan.hours:.1f} hours on {gpu}, an estimate: docs/planning.md")
