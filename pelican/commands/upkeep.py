"""What keeps a store, a cluster and an installation in order: `pelican gc`, `reap`, `doctor`."""

from __future__ import annotations

from typing import Annotated

import typer

from pelican.commands.options import PODS, Store

app = typer.Typer()


@app.command(rich_help_panel=PODS)
def reap(
    grace: Annotated[float, typer.Option(help="Minutes without a launcher.")] = 30.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell.")] = False,
    store: Store = None,
) -> None:
    """Delete the cluster's jobs whose run is gone or ended; a CronJob runs this."""
    from pelican.commands.cluster import reap as reap_them

    reap_them(store, grace, dry_run)


@app.command()
def gc(
    days: Annotated[float, typer.Option(help="What is younger stays.")] = 7.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell.")] = False,
    store: Store = None,
) -> None:
    """Delete what no manifest, run or promoted model of the store refers to."""
    from pelican.commands.cluster import gc as collect

    collect(store, days, dry_run)


@app.command()
def doctor(store: Store = None) -> None:
    """What is installed, reachable and missing, and the command that mends it."""
    from pelican.commands.doctor import report as examine

    if not examine(store):
        raise typer.Exit(1)
