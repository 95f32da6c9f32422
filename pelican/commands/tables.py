"""Tables on standard output."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from pelican.outcome import score_rows


def console() -> Console:
    """As wide as the terminal; in a pipe wide enough that no row wraps."""
    found = Console(highlight=False)
    return found if found.is_terminal else Console(highlight=False, width=200)


def score_table(tree: dict[str, Any]) -> None:
    """Every evaluation of a run, and chance."""
    table = Table("policy", box=None, title=None)
    for name in ("embodied", "general"):
        table.add_column(f"{name} (95 %)", justify="right")
    for row in score_rows(tree):
        table.add_row(*row)
    console().print(table)


def rows_table(columns: list[str], rows: list[list[str]]) -> None:
    table = Table(*columns, box=None)
    for row in rows:
        table.add_row(*row)
    console().print(table)
