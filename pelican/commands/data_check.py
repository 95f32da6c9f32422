"""`pelican data check` and `diff`: tables, a page, and JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from pelican import settings
from pelican.commands.output import check_output
from pelican.commands.tables import rows_table
from pelican.data.checks.findings import CHECKS
from pelican.data.checks.hashing import BANDS
from pelican.data.checks.page import verdict, write_page
from pelican.data.checks.pool import check
from pelican.data.diff import diff
from pelican.data.versions import QUARANTINE, find_pool, version_name
from pelican.errors import UserInputError

SHOWN = 10  # ids a line of a diff names


def check_and_print(
    where: str,
    against: Sequence[str],
    page: Path | None,
    threshold: float,
    near: int,
    as_json: bool,
) -> bool:
    """Whether the pool passes. Raises UserInputError for a pool that can't be opened."""
    if not 0 <= threshold <= 1:
        raise UserInputError(f"--threshold is {threshold:g}; it is a share from 0 to 1")
    if not 0 <= near < BANDS:
        raise UserInputError(f"--near is {near}; it takes 0 to {BANDS - 1} bits")
    pool = find_pool(where)
    path = check_output(page or pool.parent / f"{pool.name}.check.html", "--page")
    checked = check(pool, [find_pool(other) for other in against], near)
    write_page(path, checked, threshold)
    if as_json:
        print(
            json.dumps(
                {
                    "pool": str(pool),
                    "version": checked.version,
                    "rows": checked.rows,
                    "faulty": len(checked.findings.faulty),
                    "passes": checked.passes(threshold),
                    "counts": {name: checked.findings.counts[name] for name in CHECKS},
                    "findings": checked.findings.as_json(),
                },
                indent=1,
            )
        )
        return checked.passes(threshold)
    rows = []
    for name, (kind, about) in CHECKS.items():
        first = next(iter(checked.findings.of(name)), None)
        example = f"{first.id + ': ' if first.id else ''}{first.reason}" if first else ""
        mark = kind if checked.findings.counts[name] else "ok"
        rows.append([name, str(checked.findings.counts[name]), mark, example or about])
    rows_table(["check", "found", "", "first, or what it looks for"], rows)
    print(verdict(checked, threshold))
    left_out = pool / QUARANTINE
    if left_out.is_file() and left_out.stat().st_size:
        print(f"left out when it was imported: {left_out}, a row each with its reason")
    print(f"page: {path}")
    if not checked.passes(threshold):
        print("next: mend what the page shows and import again, or accept a share with --threshold")
    elif not against:
        held_out = settings.resolve("samples/test")
        print(f"next: `pelican data check {where} --against {held_out}` looks for leaks")
    else:
        # Paths of a recipe count from the repository, so only a whole one is right everywhere.
        print(f"next: `make submit SET=data.train={pool.absolute()}` trains on it")
    return checked.passes(threshold)


def print_diff(a: str, b: str, as_json: bool) -> None:
    """Raises UserInputError if one is no pool."""
    first, second = find_pool(a), find_pool(b)
    found = diff(first, second)
    if as_json:
        print(
            json.dumps(
                {
                    "a": {"pool": str(first), "version": version_name(first)},
                    "b": {"pool": str(second), "version": version_name(second)},
                    "same": found.same,
                    "added": found.added,
                    "removed": found.removed,
                    "changed": found.changed,
                    "counts": found.counts,
                },
                indent=1,
            )
        )
        return
    names = [
        f"{where} ({version_name(p) or 'no version'})" for where, p in [(a, first), (b, second)]
    ]
    print(f"from {names[0]} to {names[1]}")
    rows = [
        ["same", str(found.same), ""],
        ["added", str(len(found.added)), _some(found.added)],
        ["removed", str(len(found.removed)), _some(found.removed)],
        ["changed", str(len(found.changed)), _some(list(found.changed))],
    ]
    rows += [[f"  {name}", str(n), ""] for name, n in found.columns.most_common()]
    rows_table(["rows", "", ""], rows)
    counts = [
        [f"{column} {value}", str(x), str(y), f"{y - x:+d}" if y != x else ""]
        for column, values in found.counts.items()
        for value, (x, y) in values.items()
    ]
    rows_table(["counts", "A", "B", ""], counts)


def _some(ids: Sequence[str]) -> str:
    more = f" and {len(ids) - SHOWN} more" if len(ids) > SHOWN else ""
    return ", ".join(ids[:SHOWN]) + more
