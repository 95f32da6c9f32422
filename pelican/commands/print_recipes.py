"""`pelican recipe …`: the names that a submission takes, and a recipe's fields, as text or JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pelican.experiments.variants import ABLATIONS as IN_SET
from pelican.recipes import (
    ABLATIONS,
    ABLATIONS_OF_A_NUMBER,
    BASES,
    PIPELINES,
    SETS,
    VARIANTS_OF_RL,
    find_recipe,
)
from pelican.recipes.overrides import describe, fields

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
    print(
        "next: `pelican recipe show tiny` prints every field; docs/experiments.md explains variants"
    )


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
    print(f"next: `pelican submit --recipe {name} --set FIELD=VALUE` runs it with a field changed")


def text(value: object) -> str:
    if isinstance(value, tuple | list):
        return ",".join(text(item) for item in value)
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)
