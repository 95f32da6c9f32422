"""The declarations of grouped commands: `pelican runs`, `recipe …`, `data …`, `benchmark …`, `store …`.

Each imports what does the work when it is called, so that `--help` is quick.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pelican.cli.output import PODS, Address, Set, Store
from pelican.config import env

# What is said of runs: `pelican runs`, `show`, `report`, `weaknesses`, `compare`, `logs`, `cancel`.

runs_app = typer.Typer()


@runs_app.command()
def runs(store: Store = None) -> None:
    """List the runs of the store, the newest first."""
    from pelican.cli.runs import print_runs

    print_runs(store)


@runs_app.command()
def show(
    run: Annotated[str, typer.Argument()],
    json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify",
            help="Read every byte of the run instead, and compare it with what was written.",
        ),
    ] = False,
    store: Store = None,
) -> None:
    """Scores, ledger counts and durations of one run."""
    from pelican.cli.runs import print_run, verify_run

    if verify:
        return verify_run(run, store)
    print_run(run, json, store)


@runs_app.command()
def report(
    run: Annotated[str, typer.Argument()],
    against: Annotated[
        list[str] | None, typer.Option(help="A run to compare with, such as RL alone; repeatable.")
    ] = None,
    store: Store = None,
) -> None:
    """Write a run's report and ledger again from what lies in the store, and print the path."""
    from pelican.cli.runs import print_report

    print_report(run, against or [], store)


@runs_app.command()
def weaknesses(
    run: Annotated[str, typer.Argument()],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", help="Table of every unsolved sample: a .csv, .parquet or .json file."
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the groups as JSON.")] = False,
    store: Store = None,
) -> None:
    """What a run left unsolved, in groups of like questions: what to record next."""
    from pelican.cli.weaknesses import print_weaknesses

    print_weaknesses(run, output, json, store)


@runs_app.command()
def compare(
    run: Annotated[list[str], typer.Argument(help="Names, or STORE/runs/NAME of other stores.")],
    json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON.")] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", help="File for the HTML page; default: a place in the store."
        ),
    ] = None,
    store: Store = None,
) -> None:
    """Runs side by side: scores, paired differences, cost, recipes; and one HTML page."""
    from pelican.cli.runs import print_comparison

    print_comparison(run, json, output, store)


@runs_app.command()
def logs(
    run: Annotated[str, typer.Argument()],
    stage_: Annotated[str | None, typer.Argument(metavar="[STAGE]")] = None,
    store: Store = None,
) -> None:
    """Print a stage's log, such as train-rl (the newest) or loop-1-eval-rl; without STAGE: which."""
    from pelican.cli.cluster import print_logs

    print_logs(run, stage_, store)


@runs_app.command()
def cancel(run: Annotated[str, typer.Argument()], store: Store = None) -> None:
    """End a run of a cluster and delete its jobs; the same submission continues it."""
    from pelican.cli.cluster import cancel_run

    cancel_run(run, store)


# What is known before a run: `pelican premises`.

before_app = typer.Typer()


@before_app.command()
def premises(
    model: Annotated[
        str, typer.Argument(help="A checkpoint's folder, or an endpoint's URL to /v1.")
    ],
    pool: Annotated[str, typer.Argument(help="The pool to train on: its folder, or POOL@VERSION.")],
    recipe: Address = "tiny",
    set_: Set = None,
    teacher: Annotated[
        str | None,
        typer.Option(
            help="The teacher, as MODEL; default: the recipe's, if MODEL is the recipe's policy."
        ),
    ] = None,
    general: Annotated[
        str | None,
        typer.Option(
            help="A pool of general questions; default: data.replay, if POOL is the recipe's."
        ),
    ] = None,
    samples: Annotated[
        int, typer.Option(min=1, help="Questions to ask; rare kinds add up to half as many.")
    ] = 400,
    tries: Annotated[
        int, typer.Option(min=2, help="Answers to each question by drawing, beside a greedy one.")
    ] = 16,
    minutes: Annotated[
        float, typer.Option(min=0, help="After so long no further questions are begun.")
    ] = 60.0,
    json: Annotated[
        bool, typer.Option("--json", help="Print every number as JSON instead.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="File for every number, as JSON.")
    ] = None,
) -> None:
    """Measure on a sample whether DPPO's premises hold, and which phase would pay; trains nothing."""
    from pelican.cli.premises import print_premises

    print_premises(
        model,
        pool,
        recipe,
        set_ or [],
        teacher=teacher,
        general=general,
        samples=samples,
        tries=tries,
        minutes=minutes,
        as_json=json,
        output=output,
    )


# What keeps a store, a cluster and an installation in order: `pelican gc`, `reap`, `doctor`.

upkeep_app = typer.Typer()


@upkeep_app.command(rich_help_panel=PODS)
def reap(
    grace: Annotated[
        float, typer.Option(help="Minutes after which a job that no launcher follows is deleted.")
    ] = 30.0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be deleted, and delete nothing.")
    ] = False,
    store: Store = None,
) -> None:
    """Delete the cluster's jobs whose run is gone or ended; a CronJob runs this."""
    from pelican.cli.cluster import reap_jobs

    reap_jobs(store, grace, dry_run)


@upkeep_app.command()
def gc(
    days: Annotated[float, typer.Option(help="Age in days below which nothing is deleted.")] = 7.0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be deleted, and delete nothing.")
    ] = False,
    store: Store = None,
) -> None:
    """Delete what no manifest, run or promoted model of the store refers to."""
    from pelican.cli.cluster import collect_garbage

    collect_garbage(store, days, dry_run)


@upkeep_app.command()
def doctor(store: Store = None) -> None:
    """What is installed, reachable and missing, and the command that mends it."""
    from pelican.cli.doctor import print_findings

    if not print_findings(store):
        raise typer.Exit(1)


# `pelican recipe …`: the recipes that are there, and what one says.

recipes_app = typer.Typer(help="What there is to run, and every setting.", no_args_is_help=True)


@recipes_app.command("list")
def recipe_list() -> None:
    """Name every recipe, ablation, variant and pipeline, with what it is for."""
    from pelican.cli.recipes import print_recipes

    print_recipes()


@recipes_app.command("show")
def recipe_show(
    name: Annotated[str, typer.Argument()] = "tiny",
    set_: Set = None,
    json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Print the resolved tree of a recipe."""
    from pelican.cli.recipes import print_recipe

    print_recipe(name, set_ or [], json)


# `pelican data …`: import what a lab has, check it, compare versions, correct labels.

data_app = typer.Typer(help="Import, check and compare data.", no_args_is_help=True)

Pool = Annotated[str, typer.Argument(help="A pool's folder, or POOL@VERSION.")]


@data_app.command("import")
def import_(
    source: Annotated[str, typer.Argument(help="A file or folder; with --reader hf a name.")],
    out: Annotated[Path, typer.Option(help="Folder of the pool; it is made, or added to.")],
    reader: Annotated[
        str, typer.Option(help="Format of the source; default: recognised from its content.")
    ] = "",
    map_: Annotated[
        list[str] | None,
        typer.Option("--map", help="Prefix of media paths to replace: OLD=NEW; repeatable."),
    ] = None,
    media: Annotated[
        list[Path] | None, typer.Option(help="Further folders that media paths start from.")
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(
            help="Column of a table: question=NAME, answer=NAME, image=NAME, …; repeatable."
        ),
    ] = None,
    name: Annotated[str, typer.Option(help="Name of the data set, for rows that give none.")] = "",
    license_: Annotated[
        str, typer.Option("--license", help="License of the rows that name none.")
    ] = "",
    split: Annotated[str, typer.Option(help="Split of every row: train, dev or test.")] = "",
    subset: Annotated[str, typer.Option(help="Split of a Hugging Face data set to read.")] = "",
    config: Annotated[str, typer.Option(help="Configuration of a Hugging Face data set.")] = "",
    turns: Annotated[
        str, typer.Option(help="Turns of a conversation that become questions: the last or each.")
    ] = "last",
    notation: Annotated[
        str,
        typer.Option(
            help="Grid of coordinates that neither answer nor question tells: shares, percent,"
            " thousandths, pixels, qwen2.5-vl, …"
        ),
    ] = "",
    text_rows: Annotated[
        bool, typer.Option("--text-rows", help="Rows with an empty image field are text alone.")
    ] = False,
    step_s: Annotated[float, typer.Option(help="Seconds between two frames of a clip.")] = 1.0,
    max_frames: Annotated[
        int, typer.Option(help="Most frames of a clip; a longer clip gets a larger step.")
    ] = 64,
    horizon_s: Annotated[float, typer.Option(help="Longest clip in seconds; 0: no limit.")] = 64.0,
    max_pixels: Annotated[int, typer.Option(help="A larger image is scaled down.")] = 1_003_520,
    grey_range: Annotated[
        str,
        typer.Option(
            help="Values of 16-bit images, such as depth, that are black and white: LOW:HIGH."
        ),
    ] = "",
    limit: Annotated[int | None, typer.Option(help="Most rows to read.")] = None,
    workers: Annotated[int, typer.Option(help="Processes that decode rows; 0: one a core.")] = 0,
    max_bad: Annotated[
        float, typer.Option(help="Share of rows left out above which the exit status is 1.")
    ] = 1.0,
) -> None:
    """Read a source into a pool; the same command continues, and tries mended rows again."""
    from pelican.cli.data import Wishes, import_source
    from pelican.errors import UserInputError

    if not 0 <= max_bad <= 1:
        raise UserInputError(f"--max-bad is {max_bad:g}; it is a share from 0 to 1")

    wishes = Wishes(
        reader=reader,
        mapping=tuple(map_ or ()),
        media=tuple(media or ()),
        columns=tuple(column or ()),
        name=name,
        license=license_,
        split=split,
        subset=subset,
        config=config,
        turns=turns,
        notation=notation,
        text_rows=text_rows,
        step_s=step_s,
        max_frames=max_frames,
        horizon_s=horizon_s,
        max_pixels=max_pixels,
        grey_range=grey_range,
        limit=limit,
        workers=workers,
    )
    if import_source(source, out, wishes) > max_bad:
        raise typer.Exit(1)


@data_app.command()
def readers() -> None:
    """The formats that can be read."""
    from pelican.cli.output import rows_table
    from pelican.data.formats import readers as known

    rows_table(["reader", "reads"], [[name, found.about] for name, found in known().items()])


@data_app.command()
def check(
    pool: Pool,
    against: Annotated[
        list[str] | None,
        typer.Option(help="Evaluation set with which the pool must share nothing; repeatable."),
    ] = None,
    page: Annotated[
        Path | None, typer.Option(help="File for the HTML page; default: POOL.check.html.")
    ] = None,
    threshold: Annotated[float, typer.Option(help="Share of faulty rows that is accepted.")] = 0.0,
    near: Annotated[int, typer.Option(help="Bits of 256 that near-duplicates may differ in.")] = 10,
    json_: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Look at every row and image; ends with 1 if more than the threshold is faulty."""
    from pelican.cli.data import check_and_print

    if not check_and_print(pool, against or [], page, threshold, near, json_):
        raise typer.Exit(1)


@data_app.command()
def diff(
    a: Pool,
    b: Pool,
    json_: Annotated[
        bool, typer.Option("--json", help="Print the difference as JSON, with every id.")
    ] = False,
) -> None:
    """What B has that A has not, what is gone, and what changed."""
    from pelican.cli.data import print_diff

    print_diff(a, b, json_)


@data_app.command()
def correct(
    pool: Annotated[Path, typer.Argument(help="An imported pool.")],
    labels: Annotated[Path, typer.Argument(help="CSV with id, and family or dimension.")],
) -> None:
    """Read a corrected copy of labels.csv back; makes a new version."""
    from pelican.cli.output import counted
    from pelican.data.importing.labels import correct_labels

    version, changed = correct_labels(pool, labels)
    print(f"{pool}: version {version.id}, {counted(changed, 'row', 'rows')} corrected")


@data_app.command()
def judge(
    pool: Annotated[Path, typer.Argument(help="An imported pool.")],
    endpoint: Annotated[str, typer.Option(help="OpenAI-compatible base URL, with /v1.")],
    model: Annotated[str, typer.Option(help="Name of the model at the endpoint.")],
    below: Annotated[
        float, typer.Option(min=0, max=1, help="Confidence under which a row is asked about.")
    ] = 0.5,
    votes: Annotated[
        int, typer.Option(min=1, help="Replies that vote on one row; an odd number.")
    ] = 3,
    workers: Annotated[int, typer.Option(min=1, help="Rows asked about at a time.")] = 8,
) -> None:
    """Have a model label the rows whose rules were not sure; `correct` mends what it got wrong."""
    from pelican.cli.data import judge_and_print

    judge_and_print(pool, endpoint, model, below, votes, workers)


@data_app.command()
def versions(pool: Annotated[Path, typer.Argument(help="An imported pool.")]) -> None:
    """The versions of a pool, the oldest first."""
    from pelican.cli.output import rows_table
    from pelican.data.versions import find_pool, list_versions, read_version, version_name
    from pelican.errors import UserInputError

    found_pool = find_pool(str(pool))
    if not list_versions(pool):
        raise UserInputError(
            f"{found_pool} has no versions; `pelican data import` makes pools that do"
        )
    now = version_name(pool)
    rows = []
    for name in list_versions(pool):
        found = read_version(find_pool(f"{pool}@{name}"))
        if found is not None:
            mark = "current" if name == now else ""
            rows.append([name, found.made, str(found.rows), str(found.quarantined), mark])
    rows_table(["version", "made", "rows", "left out", ""], rows)


# `pelican benchmark …`: a checkpoint or a served model on a published benchmark.

benchmark_app = typer.Typer(help="Published benchmarks.", no_args_is_help=True)


@benchmark_app.command("list")
def benchmark_list() -> None:
    """Name every benchmark, its metric, its layout and its source."""
    from pelican.cli.benchmark import print_benchmarks

    print_benchmarks()


@benchmark_app.command("run")
def benchmark_run(
    name: Annotated[str, typer.Argument(help="Name of a benchmark in `pelican benchmark list`.")],
    data: Annotated[Path, typer.Option(help="Folder in the benchmark's published layout.")],
    model: Annotated[
        str,
        typer.Option(help="A checkpoint's folder, an endpoint's URL to /v1, or a file of replies."),
    ],
    recipe: Annotated[
        str,
        typer.Option(
            "--recipe", help="Recipe whose engine, eval.sampling and system prompt are used."
        ),
    ] = "tiny",
    set_: Set = None,
    output: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the results; default: .pelican/evaluation/published/NAME/MODEL."
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Most questions to ask, the first ones.")
    ] = None,
    frames: Annotated[
        int | None, typer.Option(min=1, help="Frames of a clip; default: as the benchmark says.")
    ] = None,
    served_model: Annotated[
        str | None,
        typer.Option(help="Name of the model at the endpoint; default: the first that it lists."),
    ] = None,
    concurrency: Annotated[
        int, typer.Option(min=1, help="Requests to the endpoint at a time.")
    ] = 16,
    judge: Annotated[
        str | None, typer.Option(help="URL of the judge's endpoint, with /v1.")
    ] = None,
    judge_model: Annotated[str | None, typer.Option(help="Name of the judge's model.")] = None,
) -> None:
    """Score a checkpoint, a served model or replies; the same command continues a run that was cut off."""
    from pelican.cli.benchmark import run

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


# `pelican store …`: the bucket that a store lies in.

store_app = typer.Typer(help="The bucket of a store.", no_args_is_help=True)


@store_app.command()
def publish(
    recipe: Annotated[str, typer.Argument(help="A recipe, such as tiny or tiny+rl_only.")] = "tiny",
    set_: Set = None,
    store: Store = None,
) -> None:
    """Upload what a recipe names by path; print the overrides that name it where pods find it."""
    from pelican.config.presets import find_recipe
    from pelican.errors import UserInputError
    from pelican.storage import open_store
    from pelican.storage.publish import places, publish

    objects = open_store(env.store_uri(store))
    if not objects.remote:
        raise UserInputError(
            f"pods can't reach the store {objects.uri}; set PELICAN_STORE=s3://bucket/prefix"
        )
    print(places(publish(objects, find_recipe(recipe, set_ or []))))


@store_app.command()
def lifecycle(
    days: Annotated[
        int, typer.Option(help="Days after which what lies below work/ and cache/ is deleted.")
    ] = 30,
    store: Store = None,
) -> None:
    """Let the bucket delete by itself what no manifest refers to; again to change it."""
    from pelican.storage import open_store
    from pelican.storage.lifecycle import describe_rule, is_of_work, set_rules

    objects = open_store(env.store_uri(store))
    rules = set_rules(objects, days)
    for rule in rules:
        print(describe_rule(rule))
    if not any(is_of_work(rule) for rule in rules):
        print("work/ stays until `pelican gc`: S3_TAG_WORK=on, here and for runs, marks it")
