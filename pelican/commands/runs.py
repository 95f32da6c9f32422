"""What is said of runs: `pelican runs`, `show`, `report`, `compare`, `logs`, `cancel`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pelican.commands.options import Store

app = typer.Typer()


@app.command()
def runs(store: Store = None) -> None:
    """List the runs of the store, the newest first."""
    from pelican.commands.inspect import print_runs

    print_runs(store)


@app.command()
def show(
    run: Annotated[str, typer.Argument()],
    json: Annotated[bool, typer.Option("--json", help="Everything, as JSON.")] = False,
    store: Store = None,
) -> None:
    """Scores, ledger counts and durations of one run."""
    from pelican.commands.inspect import print_run

    print_run(run, json, store)


@app.command()
def report(
    run: Annotated[str, typer.Argument()],
    against: Annotated[
        list[str] | None, typer.Option(help="A run to compare with, such as RL alone; repeatable.")
    ] = None,
    store: Store = None,
) -> None:
    """Write a run's report and ledger again from what lies in the store, and print the path."""
    from pelican.commands.pages import print_report

    print_report(run, against or [], store)


@app.command()
def compare(
    run: Annotated[list[str], typer.Argument(help="Names, or STORE/runs/NAME of other stores.")],
    json: Annotated[bool, typer.Option("--json", help="The numbers, as JSON.")] = False,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="HTML page; default: in the store.")
    ] = None,
    store: Store = None,
) -> None:
    """Runs side by side: scores, paired differences, cost, recipes; and one HTML page."""
    from pelican.commands.pages import print_comparison

    print_comparison(run, json, output, store)


@app.command()
def logs(
    run: Annotated[str, typer.Argument()],
    stage_: Annotated[str | None, typer.Argument(metavar="[STAGE]")] = None,
    store: Store = None,
) -> None:
    """Print a stage's log, such as train-rl (the newest) or loop-1-eval-rl; without STAGE: which."""
    from pelican.commands.cluster import logs as print_logs

    print_logs(run, stage_, store)


@app.command()
def cancel(run: Annotated[str, typer.Argument()], store: Store = None) -> None:
    """End a run of a cluster and delete its jobs; the same submission continues it."""
    from pelican.commands.cluster import cancel as end

    end(run, store)
