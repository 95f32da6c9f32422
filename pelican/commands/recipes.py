"""`pelican recipe …`: the recipes that are there, and what one says."""

from __future__ import annotations

from typing import Annotated

import typer

from pelican.commands.options import Set

app = typer.Typer(help="What there is to run, and every setting.", no_args_is_help=True)


@app.command("list")
def recipe_list() -> None:
    """Name every recipe, ablation, variant and pipeline, with what it is for."""
    from pelican.commands.print_recipes import print_recipes

    print_recipes()


@app.command("show")
def recipe_show(
    name: Annotated[str, typer.Argument()] = "tiny",
    set_: Set = None,
    json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Print the resolved tree of a recipe."""
    from pelican.commands.print_recipes import print_recipe

    print_recipe(name, set_ or [], json)
