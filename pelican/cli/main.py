"""The command line. Imports what a command needs when it runs, so that `--help` is quick."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from pelican.base.disk import explained
from pelican.cli import STOPPED
from pelican.cli.groups import before_app as before
from pelican.cli.groups import benchmark_app as benchmarks
from pelican.cli.groups import data_app as data
from pelican.cli.groups import recipes_app as recipes
from pelican.cli.groups import runs_app as runs
from pelican.cli.groups import store_app as store
from pelican.cli.groups import upkeep_app as upkeep
from pelican.cli.models import app as models
from pelican.cli.output import PODS, Address, Data, From, Launcher, Set, Store
from pelican.cli.trigger import app as trigger
from pelican.errors import PelicanError, ResourceError, UserInputError

app = typer.Typer(
    help="Deliberate Practice Policy Optimization (DPPO) for robot vision-language models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(runs)
app.add_typer(before)
app.add_typer(upkeep)
app.add_typer(recipes, name="recipe")
app.add_typer(data, name="data")
app.add_typer(models, name="models")
app.add_typer(store, name="store")
app.add_typer(trigger, name="trigger")
app.add_typer(benchmarks, name="benchmark")


@app.command()
def submit(
    pipeline: Annotated[
        str,
        typer.Option(
            help="What to run: metaloop, evaluate, rl_only, sft_only, retrain or ablations."
        ),
    ] = "metaloop",
    recipe: Address = "tiny",
    set_: Set = None,
    run: Annotated[
        str | None,
        typer.Option(
            help="Name of the run; default: recipe, date and digest, such as tiny-20261121-c879da."
        ),
    ] = None,
    launcher: Launcher = "auto",
    wait: Annotated[
        bool, typer.Option("--wait", help="With kubeflow: follow the run until it has ended.")
    ] = False,
    redo: Annotated[
        bool,
        typer.Option(
            "--redo",
            help="Make finished trainings of the run again if what they were made from has changed.",
        ),
    ] = False,
    store: Store = None,
    data: Data = None,
    from_: From = None,
    variants: Annotated[
        str | None,
        typer.Option(
            help="Variants of the ablations, such as dppo,rl_only (`pelican recipe list`); default: all."
        ),
    ] = None,
    seeds: Annotated[
        str | None, typer.Option(help="Seeds that each ablation runs with; default: 0,1,2.")
    ] = None,
    results: Annotated[
        Path | None, typer.Option(help="Page in which the table of the ablations is written anew.")
    ] = None,
) -> None:
    """Run a pipeline; the same command continues a run that was cut off."""
    if pipeline == "ablations":
        from pelican.cli.submit import ablations

        numbers = seeds or "0,1,2"
        return ablations(recipe, set_ or [], run, variants, numbers, store, launcher, results)
    given = {"--variants": variants, "--seeds": seeds, "--results": results}
    if stray := [name for name, value in given.items() if value is not None]:
        raise UserInputError(f"{stray[0]} is of the pipeline ablations, not of {pipeline}")
    if pipeline == "retrain":
        if run:
            raise UserInputError(
                f"--run {run}: a retraining names its run after model, data and recipe; leave it out"
            )
        from pelican.cli.submit import submit_retraining

        return submit_retraining(data, from_, recipe, set_ or [], store, launcher, redo)
    if data or from_:
        raise UserInputError(
            f"--data and --from (with make: DATA) are of the pipeline retrain, not of {pipeline};"
            " to train on a pool give --set data.train=POOL, with make SET=data.train=POOL"
        )
    from pelican.cli.submit import submit_run

    submit_run(pipeline, recipe, set_ or [], run or None, store, launcher, wait, redo)


@app.command()
def retrain(
    data: Data = None,
    from_: From = None,
    recipe: Address = "tiny",
    set_: Set = None,
    launcher: Launcher = "auto",
    store: Store = None,
) -> None:
    """New data in, a better model out. The same call again continues, or tells the verdict."""
    from pelican.cli.submit import submit_retraining

    submit_retraining(data, from_, recipe, set_ or [], store, launcher)


@app.command("compile")
def compile_(
    pipeline: Annotated[
        str,
        typer.Argument(help="What to compile: metaloop, evaluate, rl_only, sft_only or retrain."),
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="File for the compiled pipeline (YAML).")
    ],
    recipe: Address = "tiny",
    set_: Set = None,
) -> None:
    """Compile a pipeline for Kubeflow; the recipe becomes its parameter's default."""
    from pelican.cli.output import check_output
    from pelican.config.presets import find_recipe, for_pipeline
    from pipelines import compile_pipeline

    if output.suffix not in (".yaml", ".yml"):
        raise UserInputError(f"--output {output} does not end with .yaml; give such a name")
    check_output(output, "--output")
    compile_pipeline(pipeline, for_pipeline(pipeline, find_recipe(recipe, set_ or [])), output)
    print(f"{output}: {output.stat().st_size / 1024:.0f} KB")


@app.command()
def plan(
    recipe: Annotated[str, typer.Argument(help="A recipe, such as pelican_7b or tiny+rl_only.")],
    set_: Set = None,
    nodes: Annotated[
        int,
        typer.Option(
            min=1, help="Machines that you have; how many GPUs are used, the recipe says."
        ),
    ] = 1,
    gpus_per_node: Annotated[int, typer.Option(min=1, help="GPUs of one machine.")] = 8,
    gpu: Annotated[str, typer.Option(help="Kind of GPU: a100, h100, h200, b200 or l40s.")] = "h100",
    samples: Annotated[
        int | None,
        typer.Option(min=1, help="Fresh samples of one loop; default: as the recipe says."),
    ] = None,
    prompt_tokens: Annotated[int | None, typer.Option(min=1)] = None,
    completion_tokens: Annotated[int | None, typer.Option(min=1)] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print the whole estimate as JSON, sizes in bytes.")
    ] = False,
) -> None:
    """Memory per GPU, tokens per step, hours and storage of a recipe; status 2 if it can't fit."""
    from pelican.cli.recipes import print_plan

    print_plan(
        recipe,
        set_ or [],
        nodes=nodes,
        gpus_per_node=gpus_per_node,
        gpu=gpu,
        samples=samples,
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        as_json=json,
    )


@app.command(rich_help_panel=PODS)
def stage(
    name: Annotated[str, typer.Argument(help="Name of the stage, such as rollout or train-rl.")],
    spec: Annotated[str, typer.Option(help="Path or URI of the stage's specification (JSON).")],
) -> None:
    """Run one stage as this process; several under torchrun."""
    from pelican.cli.stage import run_spec

    run_spec(name, spec)


@app.command("generation-server", rich_help_panel=PODS)
def generation_server(
    recipe: Address = "tiny",
    set_: Set = None,
    checkpoint: Annotated[
        str | None,
        typer.Option(help="Checkpoint with the policy's shapes; default: the recipe's policy."),
    ] = None,
    folder: Annotated[
        str | None,
        typer.Option(help="Folder that weights come in; default: PELICAN_GENERATION_FOLDER."),
    ] = None,
    host: Annotated[
        str,
        typer.Option(
            help="Address to listen on; in a pod 0.0.0.0, but nobody is asked for a token."
        ),
    ] = ("127.0.0.1"),
    port: Annotated[
        int, typer.Option(min=0, help="Port to listen on; 0: any that is free.")
    ] = 8000,
) -> None:
    """Draw the completions of a training (rl.generation); runs until it is ended."""
    from pelican.cli.stage import serve_completions

    serve_completions(recipe, set_ or [], checkpoint, folder, host, port)


def _describe_mistake(error: typer.TyperException) -> str:
    """A mistake of the command line as one sentence; "" where the help was printed instead."""
    said = " ".join(error.format_message().split()).rstrip(".").replace(". Did", "; did")
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "pelican"
    return said and f"{said[0].lower()}{said[1:]}; `{command} --help` shows what it takes"


_INTERRUPTED = 130


def main() -> None:
    """Errors that a person can mend are one sentence; others keep their traceback."""
    try:
        with explained():
            status = app(prog_name="pelican", standalone_mode=False)
        if status == _INTERRUPTED:  # click catches KeyboardInterrupt, and says nothing
            print(STOPPED, file=sys.stderr)
        sys.exit(status)
    except PelicanError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except typer.TyperException as error:
        if said := _describe_mistake(error):
            print(f"error: {said}", file=sys.stderr)
        sys.exit(UserInputError.exit_code)
    except MemoryError:
        print("error: out of memory", file=sys.stderr)
        sys.exit(ResourceError.exit_code)
    except BrokenPipeError:
        sys.exit(0)


if __name__ == "__main__":
    main()
