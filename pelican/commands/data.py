"""`pelican data …`: import what a lab has, check it, compare versions, correct labels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Import, check and compare data.", no_args_is_help=True)

Pool = Annotated[str, typer.Argument(help="A pool's folder, or POOL@VERSION.")]


@app.command("import")
def import_(
    source: Annotated[str, typer.Argument(help="A file or folder; with --reader hf a name.")],
    out: Annotated[Path, typer.Option(help="The pool: made, or added to.")],
    reader: Annotated[str, typer.Option(help="Its format; default: found by looking.")] = "",
    map_: Annotated[
        list[str] | None, typer.Option("--map", help="Media paths: OLD=NEW, a prefix each.")
    ] = None,
    media: Annotated[
        list[Path] | None, typer.Option(help="Further folders that media paths start from.")
    ] = None,
    column: Annotated[
        list[str] | None, typer.Option(help="Of tables: question=NAME, answer, image, video, …")
    ] = None,
    name: Annotated[str, typer.Option(help="Name of the data set, for rows that give none.")] = "",
    license_: Annotated[str, typer.Option("--license", help="For rows that give none.")] = "",
    split: Annotated[str, typer.Option(help="train, dev or test, for every row.")] = "",
    subset: Annotated[str, typer.Option(help="Split of a Hugging Face data set to read.")] = "",
    config: Annotated[str, typer.Option(help="Configuration of a Hugging Face data set.")] = "",
    turns: Annotated[
        str, typer.Option(help="last: one question a row; each: every turn.")
    ] = "last",
    step_s: Annotated[float, typer.Option(help="Seconds between two frames of a clip.")] = 1.0,
    max_frames: Annotated[int, typer.Option(help="Of a clip; the step grows beyond.")] = 64,
    horizon_s: Annotated[float, typer.Option(help="Longest clip, seconds; 0: any.")] = 64.0,
    max_pixels: Annotated[int, typer.Option(help="A larger image is scaled down.")] = 1_003_520,
    limit: Annotated[int | None, typer.Option(help="Read so many rows only.")] = None,
    workers: Annotated[int, typer.Option(help="Rows decoded side by side; 0: one a core.")] = 0,
    max_bad: Annotated[
        float, typer.Option(help="Share left out above which it ends with 1.")
    ] = 1.0,
) -> None:
    """Read a source into a pool; the same command continues, and tries mended rows again."""
    from pelican.commands.data_import import Wishes, import_source
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
        step_s=step_s,
        max_frames=max_frames,
        horizon_s=horizon_s,
        max_pixels=max_pixels,
        limit=limit,
        workers=workers,
    )
    if import_source(source, out, wishes) > max_bad:
        raise typer.Exit(1)


@app.command()
def readers() -> None:
    """The formats that can be read."""
    from pelican.commands.tables import rows_table
    from pelican.data.readers import readers as known

    rows_table(["reader", "reads"], [[name, found.about] for name, found in known().items()])


@app.command()
def check(
    pool: Pool,
    against: Annotated[
        list[str] | None, typer.Option(help="Evaluation sets that must share nothing with it.")
    ] = None,
    page: Annotated[Path | None, typer.Option(help="HTML; default: POOL.check.html.")] = None,
    threshold: Annotated[float, typer.Option(help="Share of faulty rows that is accepted.")] = 0.0,
    near: Annotated[int, typer.Option(help="Bits of 256 that near-duplicates may differ in.")] = 10,
    json_: Annotated[bool, typer.Option("--json", help="The findings, as JSON.")] = False,
) -> None:
    """Look at every row and image; ends with 1 if more than the threshold is faulty."""
    from pelican.commands.data_check import check_and_print

    if not check_and_print(pool, against or [], page, threshold, near, json_):
        raise typer.Exit(1)


@app.command()
def diff(
    a: Pool,
    b: Pool,
    json_: Annotated[bool, typer.Option("--json", help="With every id, as JSON.")] = False,
) -> None:
    """What B has that A has not, what is gone, and what changed."""
    from pelican.commands.data_check import print_diff

    print_diff(a, b, json_)


@app.command()
def correct(
    pool: Annotated[Path, typer.Argument(help="An imported pool.")],
    labels: Annotated[Path, typer.Argument(help="CSV with id, and family or dimension.")],
) -> None:
    """Read a corrected copy of labels.csv back; makes a new version."""
    from pelican.commands.output import counted
    from pelican.data.importing.correct import correct_labels

    version, changed = correct_labels(pool, labels)
    print(f"{pool}: version {version.id}, {counted(changed, 'row', 'rows')} corrected")


@app.command()
def judge(
    pool: Annotated[Path, typer.Argument(help="An imported pool.")],
    endpoint: Annotated[str, typer.Option(help="OpenAI-compatible base URL, with /v1.")],
    model: Annotated[str, typer.Option(help="Its name there.")],
    below: Annotated[
        float, typer.Option(min=0, max=1, help="Confidence under which a row is asked about.")
    ] = 0.5,
    votes: Annotated[int, typer.Option(min=1, help="Replies a row; odd.")] = 3,
    workers: Annotated[int, typer.Option(min=1, help="Rows asked about at a time.")] = 8,
) -> None:
    """Have a model label the rows whose rules were not sure; `correct` mends what it got wrong."""
    from pelican.commands.data_judge import judge_and_print

    judge_and_print(pool, endpoint, model, below, votes, workers)


@app.command()
def versions(pool: Annotated[Path, typer.Argument(help="An imported pool.")]) -> None:
    """The versions of a pool, the oldest first."""
    from pelican.commands.tables import rows_table
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
