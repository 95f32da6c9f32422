"""`weaknesses.html`, the page "What to record next"; and the table of it that a data team takes away."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from pelican.base.cells import no_formula
from pelican.base.files import replacing
from pelican.errors import UserInputError
from pelican.report.history import corrections_of, pool_places, samples_of
from pelican.report.ledger import pictures
from pelican.report.pages import keep_page, render_page
from pelican.report.run import Run
from pelican.report.weaknesses import REASONS, Found, Row

WEAKNESSES = "weaknesses.html"
SHOWN = 60  # groups of the page
PICTURE_BUDGET = 4_000_000  # bytes of the page
_KINDS = (".csv", ".parquet", ".json")


def build_weaknesses(run: Run, found: Found) -> str | None:
    """Write `runs/<run>/weaknesses.html`; where it lies here, or None if nothing was practised yet."""
    if not found.summary.practised:
        return None
    return str(keep_page(run.store, f"{run.prefix}/{WEAKNESSES}", render_weaknesses(run, found)))


def render_weaknesses(run: Run, found: Found) -> str:
    """The page as text."""
    shown = found.summary.weaknesses[:SHOWN]
    return render_page(
        "weaknesses.html.j2",
        run=run,
        found=found.summary,
        shown=shown,
        reasons=REASONS,
        images=_images(run, [row for one in shown for row in one.examples]),
    )


def _images(run: Run, rows: Sequence[Row]) -> dict[str, str]:
    """A picture of each example, of the largest groups first, until the budget is spent."""
    order = {row.sample_id: number for number, row in enumerate(rows)}
    samples = samples_of(run, pool_places(run), order, corrections_of(run))
    drawn = {s.id: shown[-1] for s in samples if s.images and (shown := pictures(s))}
    kept, spent = {}, 0
    for name in sorted(drawn, key=order.__getitem__):
        spent += len(drawn[name])
        if spent > PICTURE_BUDGET:
            break
        kept[name] = drawn[name]
    return kept


# The table: one row an unsolved sample, with its group's words.


def check_table(path: Path) -> None:
    """Raises UserInputError, before any work, if the name does not say which kind of table is wanted."""
    if path.suffix not in _KINDS:
        raise UserInputError(
            f"--output {path} ends with none of {', '.join(_KINDS)}; give such a name"
        )


def write_table(path: Path, found: Found) -> None:
    """Write every unsolved sample to a CSV, Parquet or JSON file, which is there whole or not at all.

    In CSV what a spreadsheet would compute gets a quote in front.
    """
    rows = [row.model_dump() for row in found.rows]
    with replacing(path) as file:
        if path.suffix == ".parquet":
            numbers = {"weakness": pl.Int64, "row": pl.Int64, "last_rate": pl.Float64}
            types = {**numbers, "label_in_doubt": pl.Boolean}
            columns = {name: types.get(name, pl.String) for name in Row.model_fields}
            pl.DataFrame(rows, schema=columns, orient="row").write_parquet(file)
        elif path.suffix == ".json":
            tree = {**found.summary.model_dump(), "rows": rows}
            file.write_text(json.dumps(tree, indent=1, ensure_ascii=False), encoding="utf-8")
        else:
            with file.open("w", newline="", encoding="utf-8") as text:
                writer = csv.writer(text)
                writer.writerow(Row.model_fields)
                for row in rows:
                    writer.writerow([no_formula(str(value)) for value in row.values()])
