"""The work of `pelican recipe …` and `pelican plan`."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pelican.cli.output import rows_table
from pelican.config import env
from pelican.config.overrides import describe, fields, nearest
from pelican.config.presets import (
    ABLATIONS,
    ABLATIONS_OF_A_NUMBER,
    BASES,
    PIPELINES,
    SETS,
    VARIANTS_OF_RL,
    find_recipe,
)
from pelican.config.recipe import Recipe
from pelican.errors import UserInputError
from pelican.experiments import ABLATIONS as IN_SET
from pelican.planning import GPUS, Load, Parts, Plan, make_plan

# `pelican plan`: memory, tokens, hours and storage of a recipe, or why it can't run.

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
        _print(plan, gpu, nodes, gpus_per_node)
    if plan.refusals:
        raise UserInputError(f"{address} does not fit: {'; '.join(plan.refusals)}")
    if not as_json:
        more = "".join(f" --set {shlex.quote(text)}" for text in overrides)
        print(f"next     `pelican submit --recipe {shlex.quote(address)}{more}` runs it")


def _samples(recipe: Recipe) -> int:
    """Samples of one loop: as the recipe says, else as many as the pool has."""
    if recipe.data.samples_per_loop is not None:
        return recipe.data.samples_per_loop
    folder = Path(env.resolve(recipe.data.train))
    shards = sorted(folder.glob("**/*.parquet"))
    if not shards:
        raise UserInputError(
            f"data.train = {recipe.data.train!r} is not here and data.samples_per_loop is not set;"
            " give --samples"
        )
    import pyarrow.parquet as pq

    return sum(pq.read_metadata(shard).num_rows for shard in shards)


def _print(plan: Plan, gpu: str, nodes: int, per_node: int) -> None:
    shape, load = plan.shape, plan.load
    print(
        f"policy   {shape.name}: {_parameters(shape.total)} parameters, {_parameters(shape.vision)}"
        " of them the vision tower"
    )
    print(
        f"load     {load.samples:,} samples a loop, prompts of {load.prompt:,} tokens, completions of"
        f" at most {load.completion:,}"
    )
    there = nodes * per_node
    print(
        f"cluster  {nodes} x {per_node} {gpu} = {there} GPUs of {_bytes(plan.gpu.memory)}; the recipe"
        f" uses at most {plan.gpus} of them at a time"
    )
    print()
    rows_table(
        ["stage", "GPUs", "each holds", "most of it", "tokens a step", "whole run"],
        [
            [
                stage.stage,
                str(stage.gpus),
                _bytes(stage.bytes),
                _largest(stage.memory),
                f"{stage.tokens_per_step:,}",
                _time(stage.hours) + (f" of {stage.beside}" if stage.beside else ""),
            ]
            for stage in plan.stages
        ],
    )
    print()
    print("storage  " + ", ".join(f"{name}: {_bytes(n)}" for name, n in plan.storage.items()))
    print(
        f"time     {_time(plan.hours)} for all stages on {gpu}, right within a factor of two;"
        " docs/scaling.md says how it is reckoned, --json gives every part"
    )


def _largest(memory: Parts) -> str:
    """The three largest parts; an engine fills what the weights leave with keys and values."""
    parts = sorted(memory.items(), key=lambda item: -item[1])[:3]
    return ", ".join(f"{name} {_bytes(size)}" for name, size in parts if size >= 1e8)


def _parameters(number: float) -> str:
    return f"{number / 1e9:.2f} B" if number >= 1e9 else f"{number / 1e6:.1f} M"


def _bytes(number: float) -> str:
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if number >= size:
            return f"{number / size:.{0 if number >= 10 * size else 1}f} {unit}"
    return f"{number / 1e3:.0f} kB"


def _time(hours: float) -> str:
    if hours >= 1:
        return f"{hours:.1f} h"
    return f"{hours * 60:.0f} min" if hours * 60 >= 1 else "< 1 min"


# `pelican recipe …`: the names that a submission takes, and a recipe's fields, as text or JSON.

LONG = 32  # characters of a value; a longer one pushes only its own line


def print_recipes() -> None:
    """Every name that `--recipe`, `--pipeline` and `--variants` take, with what it means."""
    plain = {name: change for name, change in ABLATIONS.items() if name not in VARIANTS_OF_RL}
    lists = {
        "recipes: --recipe tiny": _about(BASES),
        "ablations, after a recipe: --recipe 'tiny+rl_only+threshold(0.5)'": {
            **_about(plain, "+{}"),
            **_about(ABLATIONS_OF_A_NUMBER, "+{}(x)"),
        },
        "variants of RL, alike: --recipe tiny+hints": _about(VARIANTS_OF_RL, "+{}"),
        "pipelines: --pipeline metaloop": {**_about(PIPELINES), **SETS},
        "of the pipeline ablations: --variants dppo,rl_only": {
            name: f"{one.meaning} ({' '.join(filter(None, [one.recipe, one.overrides]))})"
            for name, one in IN_SET.items()
        },
    }
    width = max(len(name) for names in lists.values() for name in names)
    for title, names in lists.items():
        print(title)
        for name, about in names.items():
            print(f"  {name:<{width}}  {about}")
        print()
    print("next: `pelican recipe show tiny` prints every field; docs/results.md explains variants")


def _about(functions: Mapping[str, Callable[..., Any]], form: str = "{}") -> dict[str, str]:
    return {
        form.format(name): str(function.__doc__).strip().splitlines()[0]
        for name, function in functions.items()
    }


def print_recipe(name: str, overrides: Sequence[str], as_json: bool) -> None:
    recipe = find_recipe(name, overrides)
    if as_json:
        print(recipe.model_dump_json(indent=1))
        return
    shown = []
    for field, value in fields(recipe).items():
        if value is None and field.startswith("resources.") and "resources.every." not in field:
            continue  # two hundred lines: what a stage does not set is as `resources.every` says
        shown.append((field, text(value), describe(field)))
    names = max(len(field) for field, _, _ in shown)
    values = max(len(value) for _, value, _ in shown if len(value) <= LONG)
    for field, value, about in shown:
        print(f"{field:<{names}}  {value:<{values}}  {about}".rstrip())
    print(f"{'(digest)':<{names}}  {recipe.digest()}")
    print()
    print("[P]: the default follows the DPPO papers (arXiv 2511.16602, 2511.00108); [D]: it is")
    print("Pelican's decision. A recipe may set another value.")
    address = shlex.quote(name)
    print(
        f"next: `pelican submit --recipe {address} --set FIELD=VALUE` runs it with a field changed"
    )


def text(value: object) -> str:
    if isinstance(value, tuple | list):
        return ",".join(text(item) for item in value)
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)
