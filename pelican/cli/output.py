"""What several commands share: options, tables, counts, checks of output paths."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from pelican.errors import DamagedError, PelicanError, UserInputError

if TYPE_CHECKING:
    from rich.console import Console

# The findings of `pelican doctor`: a line for each thing that it looked at.

Level = Literal["ok", "missing", "optional"]


@dataclass(frozen=True)
class Finding:
    """One line: `optional` is missing but only some commands need it."""

    level: Level
    name: str
    about: str
    mend: str = ""


def look_at(name: str, look: Callable[[], str], mend: str) -> Finding:
    """A finding from `look`: the sentence that it returns, or the PelicanError that it raises."""
    try:
        return Finding("ok", name, look())
    except PelicanError as error:
        return Finding("missing", name, str(error), mend)


# What several commands have in common: options, and panels of the help.

PODS = "Commands that pods run"  # a panel of the help

Store = Annotated[
    str | None,
    typer.Option(
        help="Folder or s3:// address of the store; default: PELICAN_STORE, else .pelican/store."
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="Fields of the recipe to change, such as 'loops=2 rl.max_steps=50' (`pelican recipe show`).",
    ),
]
Address = Annotated[
    str,
    typer.Option(
        "--recipe", help="A recipe, such as tiny or tiny+rl_only (`pelican recipe list`)."
    ),
]
Launcher = Annotated[
    str,
    typer.Option(
        help="Where stages run: local, pytorchjob, kubeflow; auto: as the environment says."
    ),
]
Data = Annotated[
    str | None,
    typer.Option(
        help="New data of a retraining: a data version, a prefix of the store, or a folder."
    ),
]
From = Annotated[
    str | None,
    typer.Option("--from", help="Model that a retraining goes on from, such as tiny or tiny:3."),
]

# Output paths are checked before the work, so that a wrong one costs nothing.


def check_output(path: Path, option: str, *, folder: bool = False) -> Path:
    """`path`, its parent made. Raises UserInputError if a file, or a folder, can't be written there."""
    given = f"{option} {path}"
    if path.is_dir() and not folder:
        raise UserInputError(f"{given} is a folder; give the path of a file")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserInputError(
            f"{given} can't be written: {path.parent}: {error.strerror}; give another path"
        ) from None
    if not os.access(path.parent, os.W_OK):
        raise UserInputError(f"{given} can't be written: no permission; give another path")
    return path


def counted(number: int, one: str, more: str) -> str:
    """`1 row` or `2 rows`."""
    return f"{number:,} {one if number == 1 else more}"


def tell_damage(found: Iterable[DamagedError | str]) -> None:
    """Name each damaged record once and count them, beside what the others say."""
    said = list(dict.fromkeys(map(str, found)))
    for sentence in said:
        print(f"damaged: {sentence}", file=sys.stderr)
    if said:
        print(f"{counted(len(said), 'record was', 'records were')} left out", file=sys.stderr)


# Tables on standard output.


def console() -> Console:
    """A console as wide as the terminal; in a pipe so wide that no row wraps."""
    from rich.console import Console

    found = Console(highlight=False)
    return found if found.is_terminal else Console(highlight=False, width=200)


def score_table(tree: dict[str, Any]) -> None:
    """Every evaluation of a run, and chance."""
    from rich.table import Table

    from pelican.runs.outcome import sampled_rows, score_rows

    table = Table("policy", box=None, title=None)
    for name in ("embodied", "general"):
        table.add_column(f"{name} (95 %)", justify="right")
    for row in score_rows(tree):
        table.add_row(*row)
    console().print(table)
    head, rows = sampled_rows(tree)
    if rows:
        print(
            "\nshare of questions solved by the greedy answer, by one of k sampled ones, by their majority"
        )
        rows_table(head, rows)


def rows_table(columns: list[str], rows: list[list[str]]) -> None:
    """A table with these columns on standard output."""
    from rich.table import Table

    table = Table(*columns, box=None)
    for row in rows:
        table.add_row(*row)
    console().print(table)
