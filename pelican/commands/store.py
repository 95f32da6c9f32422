"""`pelican store …`: the bucket that a store lies in."""

from __future__ import annotations

from typing import Annotated

import typer

from pelican import settings

app = typer.Typer(help="The bucket of a store.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Else a single command would take the group's place."""


@app.command()
def lifecycle(
    days: Annotated[int, typer.Option(help="Age at which work/ and cache/ are deleted.")] = 30,
    store: Annotated[
        str | None, typer.Option(help="Store; default PELICAN_STORE, else .pelican/store.")
    ] = None,
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
