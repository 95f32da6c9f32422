"""`pelican store …`: the bucket that a store lies in."""

from __future__ import annotations

from typing import Annotated

import typer

from pelican import settings
from pelican.commands.options import Set, Store

app = typer.Typer(help="The bucket of a store.", no_args_is_help=True)


@app.command()
def publish(
    recipe: Annotated[str, typer.Argument(help="Such as tiny or tiny+rl_only.")] = "tiny",
    set_: Set = None,
    store: Store = None,
) -> None:
    """Upload what a recipe names by path; print the overrides that name it where pods find it."""
    from pelican.errors import UserInputError
    from pelican.recipes import find_recipe
    from pelican.storage.objects import open_store
    from pelican.storage.publish import places, publish

    objects = open_store(settings.store_uri(store))
    if not objects.remote:
        raise UserInputError(
            f"pods can't reach the store {objects.uri}; set PELICAN_STORE=s3://bucket/prefix"
        )
    print(places(publish(objects, find_recipe(recipe, set_ or []))))


@app.command()
def lifecycle(
    days: Annotated[int, typer.Option(help="Age at which work/ and cache/ are deleted.")] = 30,
    store: Store = None,
) -> None:
    """Let the bucket delete by itself what no manifest refers to; again to change it."""
    from pelican.storage.lifecycle import is_of_work, meaning, set_rules
    from pelican.storage.objects import open_store

    objects = open_store(settings.store_uri(store))
    rules = set_rules(objects, days)
    for rule in rules:
        print(meaning(rule))
    if not any(is_of_work(rule) for rule in rules):
        print("work/ stays until `pelican gc`: S3_TAG_WORK=on, here and for runs, marks it")
