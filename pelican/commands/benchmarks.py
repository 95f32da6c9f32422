"""`pelican benchmark …`: a checkpoint or a served model on a published benchmark."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pelican.commands.options import Set

app = typer.Typer(help="Published benchmarks.", no_args_is_help=True)


@app.command("list")
def benchmark_list() -> None:
    """Name every benchmark, its metric, its layout and its source."""
    from pelican.commands.benchmark import print_benchmarks

    print_benchmarks()


@app.command("run")
def benchmark_run(
    name: Annotated[str, typer.Argument(help="As `pelican benchmark list` has it.")],
    data: Annotated[Path, typer.Option(help="Folder in the benchmark's published layout.")],
    model: Annotated[
        str,
        typer.Option(help="A checkpoint's folder, an endpoint's URL to /v1, or a file of replies."),
    ],
    recipe: Annotated[
        str, typer.Option("--recipe", help="For its engine, eval.sampling and system prompt.")
    ] = "tiny",
    set_: Set = None,
    output: Annotated[
        Path | None, typer.Option(help="Default: .pelican/benchmarks/NAME/MODEL.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first questions.")] = None,
    frames: Annotated[int | None, typer.Option(min=1, help="Of a clip.")] = None,
    served_model: Annotated[
        str | None, typer.Option(help="Name at the endpoint; default: the first it lists.")
    ] = None,
    concurrency: Annotated[
        int, typer.Option(min=1, help="Requests at a time, to an endpoint.")
    ] = 16,
    judge: Annotated[str | None, typer.Option(help="Judge's endpoint, its URL to /v1.")] = None,
    judge_model: Annotated[str | None, typer.Option(help="Name of the judge's model.")] = None,
) -> None:
    """Score a checkpoint, a served model or replies; the same command continues a run that was cut off."""
    from pelican.commands.benchmark import run

    run(
        name,
        data,
        model,
        recipe,
        set_ or [],
        output=output,
        limit=limit,
        frames=frames,
        served_model=served_model,
        concurrency=concurrency,
        judge=judge,
        judge_model=judge_model,
    )
