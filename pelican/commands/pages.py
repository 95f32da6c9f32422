"""`pelican report` and `compare`: the pages, and the comparison as text or JSON."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pelican import settings
from pelican.commands.output import check_output
from pelican.commands.print_recipes import text
from pelican.commands.tables import rows_table
from pelican.storage.objects import open_store
from pelican.telemetry.progress import duration

if TYPE_CHECKING:
    from pelican.evaluation.metrics import Difference
    from pelican.report.comparison import RunRow, RunTable


def print_report(run: str, against: Sequence[str], uri: str | None) -> None:
    """Also of a run that goes on or failed: the page shows what is there."""
    from pelican.report import build_report
    from pelican.report.labels import open_address

    store = open_store(settings.store_uri(uri))
    print(build_report(store, run, [open_address(other, store) for other in against]))


def print_comparison(
    addresses: Sequence[str], as_json: bool, output: Path | None, uri: str | None
) -> None:
    """Tables, and the page: to `output`, else to the store; with `as_json` the numbers alone."""
    from pelican.report.compare_page import build_comparison, render_comparison
    from pelican.report.comparison import compare_runs, open_runs

    if output is not None:
        check_output(output, "--output")
    store = open_store(settings.store_uri(uri))
    runs = open_runs(store, addresses)
    table = compare_runs(runs)
    if as_json:
        print(table.model_dump_json(indent=1))
        return
    _print_tables(table)
    if output is None:
        page = str(build_comparison(store, runs, table))
    else:
        output.write_text(render_comparison(runs, table), encoding="utf-8")
        page = str(output)
    print(f"page    {page}")
    others = "".join(f" --against {address}" for address in addresses[1:])
    what = "draws gain and forgetting beside the others" if others else "writes its report again"
    print(f"next    `pelican report {addresses[0]}{others}` {what}")


def _print_tables(table: RunTable) -> None:
    labels = [row.run for row in table.rows]
    columns = ["run", "trained by", "loops", "embodied", "gain (95 %)", "general", "gain (95 %)"]
    rows_table(
        [*columns, f"against {labels[0]}"],
        [
            [
                row.run,
                row.kind,
                str(row.loops),
                _number(row.final),
                _change(row.gain),
                _number(row.general),
                _change(row.general_gain),
                _against(row, first=index == 0),
            ]
            for index, row in enumerate(table.rows)
        ],
    )
    rows_table(
        ["cost", "stages", "GPU hours", "CPU hours", "tokens generated", "trained on"],
        [
            [
                row.run,
                duration(row.cost.seconds),
                _hours(row.cost.gpu_hours),
                _hours(row.cost.cpu_hours),
                f"{row.cost.generated_tokens:,}",
                f"{row.cost.trained_tokens:,}",
            ]
            for row in table.rows
        ],
    )
    families = sorted({name for row in table.rows for name in row.families})
    if families:
        rows_table(
            ["family", *labels],
            [
                [
                    name,
                    *(
                        _number(e.score if (e := r.families.get(name)) else None)
                        for r in table.rows
                    ),
                ]
                for name in families
            ],
        )
    if table.recipe_differences:
        rows_table(
            ["recipe field", *labels],
            [
                [field, *(text(values[label]) for label in labels)]
                for field, values in table.recipe_differences.items()
            ],
        )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _hours(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _against(row: RunRow, first: bool) -> str:
    if row.against_first is None and not first and row.final is not None:
        return "no common question"
    return _change(row.against_first)


def _change(change: Difference | None) -> str:
    if change is None:
        return "-"
    return f"{change.delta:+.1f} ({change.low:+.1f} to {change.high:+.1f})"
