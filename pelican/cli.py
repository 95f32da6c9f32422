"""The command line. Imports what a command needs when it runs, so that `--help` is quick."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from pelican.commands.models import app as models
from pelican.commands.trigger import app as trigger
from pelican.errors import PelicanError, ResourceError

app = typer.Typer(
    help="Deliberate Practice Policy Optimization (DPPO) for robot vision-language models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
recipes = typer.Typer(help="Named recipes.", no_args_is_help=True)
app.add_typer(recipes, name="recipe")
app.add_typer(models, name="models")
app.add_typer(trigger, name="trigger")

Store = Annotated[
    str | None, typer.Option(help="Store; default PELICAN_STORE, else .pelican/store.")
]
Set = Annotated[
    list[str] | None, typer.Option("--set", help="Overrides, such as 'loops=2 rl.max_steps=50'.")
]
Address = Annotated[str, typer.Option("--recipe", help="Such as tiny or tiny+rl_only.")]
Data = Annotated[
    str | None, typer.Option(help="Of a retraining: data version, prefix of the store, or folder.")
]
From = Annotated[
    str | None, typer.Option("--from", help="Of a retraining: model, such as tiny or tiny:3.")
]


@app.command()
def submit(
    pipeline: Annotated[
        str, typer.Option(help="metaloop, evaluate, rl_only, sft_only, retrain.")
    ] = "metaloop",
    recipe: Address = "tiny",
    set_: Set = None,
    run: Annotated[str | None, typer.Option(help="Name; default: recipe, date, digest.")] = None,
    launcher: Annotated[str, typer.Option(help="local: processes of this machine.")] = "local",
    store: Store = None,
    data: Data = None,
    from_: From = None,
) -> None:
    """Run a pipeline; the same command continues a run that was cut off."""
    if pipeline == "retrain":
        from pelican.commands.retrain import retrain as retrain_it

        return retrain_it(data, from_, recipe, set_ or [], store, launcher)
    from pelican.commands.submit import submit as run_it

    run_it(pipeline, recipe, set_ or [], run or None, store, launcher)


@app.command()
def retrain(
    data: Data = None,
    from_: From = None,
    recipe: Address = "tiny",
    set_: Set = None,
    launcher: Annotated[str, typer.Option(help="local: processes of this machine.")] = "local",
    store: Store = None,
) -> None:
    """New data in, a better model out. The same call again continues, or tells the verdict."""
    from pelican.commands.retrain import retrain as retrain_it

    retrain_it(data, from_, recipe, set_ or [], store, launcher)


@app.command()
def stage(
    name: Annotated[str, typer.Argument(help="rollout, reward, filter, train-rl, …")],
    spec: Annotated[Path, typer.Option(help="The stage's specification, JSON.")],
) -> None:
    """Run one stage as this process; several under torchrun."""
    from pelican.commands.stage import run_spec

    run_spec(name, spec)


@app.command("compile")
def compile_(
    pipeline: Annotated[str, typer.Argument(help="metaloop, evaluate, rl_only, sft_only.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="IR, YAML.")],
    recipe: Address = "tiny",
    set_: Set = None,
) -> None:
    """Compile a pipeline for Kubeflow; the recipe becomes its parameter's default."""
    from pelican.recipes import find_recipe, for_pipeline
    from pipelines import compile_pipeline

    compile_pipeline(pipeline, for_pipeline(pipeline, find_recipe(recipe, set_ or [])), output)
    print(f"{output}: {output.stat().st_size / 1024:.0f} KB")


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
def report(run: Annotated[str, typer.Argument()], store: Store = None) -> None:
    """Write a run's report again from what lies in the store, and print its path."""
    from pelican.commands.inspect import print_report

    print_report(run, store)


@app.command()
def compare(run: Annotated[list[str], typer.Argument()], store: Store = None) -> None:
    """The last scores of several runs side by side, with paired differences to the first."""
    from pelican.commands.inspect import print_comparison

    print_comparison(run, store)


@app.command()
def doctor(store: Store = None) -> None:
    """What is installed, reachable and missing, and the command that mends it."""
    from pelican.doctor import report as examine

    if not examine(store):
        raise typer.Exit(1)


@recipes.command("list")
def recipe_list() -> None:
    """Name every recipe, ablation and pipeline."""
    from pelican.commands.inspect import print_recipes

    print_recipes()


@recipes.command("show")
def recipe_show(
    name: Annotated[str, typer.Argument()] = "tiny",
    set_: Set = None,
    json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Print the resolved tree of a recipe."""
    from pelican.commands.inspect import print_recipe

    print_recipe(name, set_ or [], json)


def main() -> None:
    """Errors that a person can mend are one sentence; others keep their traceback."""
    try:
        app(prog_name="pelican")
    except PelicanError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except MemoryError:
        print("error: out of memory", file=sys.stderr)
        sys.exit(ResourceError.exit_code)
    except BrokenPipeError:
        sys.exit(0)


if __name__ == "__main__":
    main()
