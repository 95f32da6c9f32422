"""The work of `pelican weaknesses`, and of what a retraining says of its parent's."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pelican.cli.output import check_output, counted, rows_table, tell_damage
from pelican.config import env
from pelican.storage import open_store

if TYPE_CHECKING:
    from pelican.report.weaknesses import Weaknesses
    from pelican.storage.store import ObjectStore

SHOWN = 15  # groups; the page and the table have more
_ASKS = 64  # characters of a group's words


def print_weaknesses(run: str, output: Path | None, as_json: bool, uri: str | None) -> None:
    """Groups of what is unsolved, the page, and with `output` the table."""
    from pelican.report.run import open_run
    from pelican.report.weaknesses import find_weaknesses
    from pelican.report.weaknesses_page import build_weaknesses, check_table, write_table

    if output is not None:
        check_table(output)
        check_output(output, "--output")
    store = open_store(env.store_uri(uri))
    opened = open_run(store, run)
    found = find_weaknesses(opened)
    if output is not None:
        write_table(output, found)
    if as_json:
        print(found.summary.model_dump_json(indent=1))
    else:
        _print(found.summary)
        if page := build_weaknesses(opened, found):
            print(f"page    {page}")
        if output is not None:
            print(f"table   {output}: {counted(len(found.rows), 'sample', 'samples')}")
    tell_damage(opened.damaged)


def _print(found: Weaknesses) -> None:
    if not found.practised:
        print(
            f"run {found.run} has practised nothing yet; its first filter stage tells what is weak"
        )
        return
    last = max(found.loops, default=0)
    print(
        f"run {found.run}, up to loop {last}: {found.unsolved:,} of {found.practised:,} practised samples"
        f" are unsolved; {found.taught:,} more were taught and not seen again"
    )
    for place in found.away:
        print(f"not readable from here: {place}; questions are left out, names and counts stay")
    if not found.weaknesses:
        return
    print()
    columns = ["", "questions that ask", "dimension", "family", "unsolved", "practised", "why"]
    rows_table(
        columns,
        [
            [
                str(one.number),
                _short(one.asks or one.examples[0].sample_id),
                one.dimension,
                one.family,
                str(one.unsolved),
                str(one.practised),
                ", ".join(f"{count} {name}" for name, count in one.reasons.items()),
            ]
            for one in found.weaknesses[:SHOWN]
        ],
    )
    more = found.weaknesses[SHOWN:]
    if more:
        rest = sum(one.unsolved for one in more)
        print(f"and {counted(len(more), 'group', 'groups')} more, of {rest} samples")
    print("\nteacher: it fails, too; taught: still never right; forgotten: was right once;")
    print("untaught: never right, and no teacher was asked yet\n")


def _short(words: str) -> str:
    return words if len(words) <= _ASKS else f"{words[: _ASKS - 1]}…"


def print_matched(store: ObjectStore, run: str) -> None:
    """How many new rows of a retraining ask what its parent's run left unsolved; nothing for others."""
    from pelican.report.run import open_run
    from pelican.report.weaknesses import match_new

    matched = match_new(open_run(store, run))
    if matched is None:
        return
    if isinstance(matched, str):
        print(f"new     {matched}")
        return
    inside = matched.rows - matched.elsewhere
    print(
        f"new     {inside:,} of {counted(matched.rows, 'row', 'rows')} ask what run {matched.run} left"
        " unsolved"
    )
    for one in matched.summary.weaknesses:
        if one.number in matched.by_weakness:
            rows = counted(matched.by_weakness[one.number], "row", "rows")
            print(f"        {rows}: {_short(one.asks)} ({one.unsolved} unsolved)")
