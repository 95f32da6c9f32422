"""The work of `pelican data …`: import, check, compare, label."""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import ValidationError
from rich.console import Console

from pelican.cli.output import check_output, console, counted, rows_table
from pelican.config import env
from pelican.config.overrides import as_override
from pelican.config.recipe import JudgeConfig
from pelican.data.checks import BANDS, CHECKS, check, diff
from pelican.data.checks_page import verdict, write_page
from pelican.data.formats import find_reader, sniff
from pelican.data.formats.base import Options
from pelican.data.formats.tables import card_license
from pelican.data.images import WORDS, Range
from pelican.data.importing.convert import Defaults
from pelican.data.importing.labels import judge_labels
from pelican.data.importing.media import Finder, Loader
from pelican.data.importing.regions import find_notation
from pelican.data.importing.run import Plan, Result, Tally, run_import
from pelican.data.tables import CODES
from pelican.data.versions import (
    LABELS,
    QUARANTINE,
    find_pool,
    read_quarantine,
    read_version,
    version_name,
)
from pelican.data.video import ClipCache, ClipRule
from pelican.errors import UserInputError
from pelican.monitoring.progress import duration

# `pelican data check` and `diff`: tables, a page, and JSON.

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
        held_out = env.resolve("samples/test")
        pools = f"{shlex.quote(where)} --against {shlex.quote(held_out)}"
        print(f"next: `pelican data check {pools}` looks for leaks")
    else:
        # Paths of a recipe count from the repository, so only a whole one is right everywhere.
        override = shlex.quote(as_override("data.train", pool.absolute()))
        print(f"next: `make submit SET={override}` trains on it")
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


# `pelican data import`: a person's wishes to a plan, its progress, and what it says at the end.

REASON_CHARS = 240  # characters of a reason
REPORT_S = 10.0  # between two lines of progress where nobody watches a terminal


@dataclass(frozen=True)
class Wishes:
    """The options of the command line; empty means not said."""

    reader: str = ""
    mapping: tuple[str, ...] = ()
    media: tuple[Path, ...] = ()
    columns: tuple[str, ...] = ()
    name: str = ""
    license: str = ""
    split: str = ""
    subset: str = ""
    config: str = ""
    turns: str = "last"
    notation: str = ""
    text_rows: bool = False
    step_s: float = 1.0
    max_frames: int = 64
    horizon_s: float = 64.0
    max_pixels: int = 1_003_520
    grey_range: str = ""
    limit: int | None = None
    workers: int = 0


def import_source(where: str, pool: Path, wishes: Wishes) -> float:
    """Import, print what came of it; returns the share of rows that were left out."""
    plan = make_plan(where, wishes)
    check_output(pool, "--out", folder=True)
    before = read_version(pool) if pool.is_dir() else None
    started = time.monotonic()
    with _Progress() as progress:
        try:
            result = run_import(plan, pool, progress)
        except KeyboardInterrupt:
            print("\ncut off; the same command continues", file=sys.stderr)
            sys.exit(130)
    _say(result, pool, time.monotonic() - started)
    last = before.sources[-1] if before and before.sources else None
    if before and last and last.path == str(Path(where).absolute()):
        _say_kept(before.settings, plan.settings)
    left = result.tally.quarantined.total()
    return left / max(1, result.tally.total)


def make_plan(where: str, wishes: Wishes) -> Plan:
    """Raises UserInputError that names the option."""
    if wishes.turns not in ("last", "each"):
        raise UserInputError(f"--turns is {wishes.turns!r}; it takes last or each")
    if wishes.split not in ("", "train", "dev", "test"):
        raise UserInputError(f"--split is {wishes.split!r}; it takes train, dev or test")
    for option, value, least in (
        ("--step-s", wishes.step_s, 0.001),
        ("--max-frames", wishes.max_frames, 2),
        ("--horizon-s", wishes.horizon_s, 0),
        ("--max-pixels", wishes.max_pixels, 1),
        ("--limit", wishes.limit, 1),
        ("--workers", wishes.workers, 0),
    ):
        if value is not None and value < least:
            raise UserInputError(f"{option} is {value:g}; it takes {least:g} or more")
    options = Options(
        columns=dict(_pair(text, "--column") for text in wishes.columns),
        turns=cast(Literal["last", "each"], wishes.turns),
        split=wishes.subset,
        config=wishes.config,
    )
    if wishes.reader:
        reader = find_reader(wishes.reader)
        if reader.name != "hf" and not Path(where).exists():
            raise UserInputError(f"there is nothing at {where!r}")
    else:
        reader, fits = sniff(where, options)
        others = ", ".join(name for name in fits if name != reader.name)
        print(
            f"read as {reader.name}: {reader.about}" + (f" (also fits {others})" if others else "")
        )
    path = Path(where)
    root = path.parent if path.is_file() else path
    roots = [root, *wishes.media] if path.exists() else list(wishes.media)
    for folder in wishes.media:
        if not folder.is_dir():
            raise UserInputError(f"--media {folder} is no folder")
    mapping = []
    for text in wishes.mapping:
        old, new = _pair(text, "--map")
        if not Path(new).is_dir():
            raise UserInputError(f"--map {text}: {new} is no folder")
        mapping.append((old, Path(new)))
    rule = ClipRule(wishes.step_s, wishes.max_frames, wishes.horizon_s or None, wishes.max_pixels)
    defaults = Defaults(
        source=wishes.name or (path.stem if path.is_file() else path.absolute().name),
        license=wishes.license or (card_license(root) if path.exists() else ""),
        split=cast(Literal["train", "dev", "test"], wishes.split or "train"),
        force_split=bool(wishes.split),
        notation=find_notation(wishes.notation),
        text_rows=wishes.text_rows,
    )
    said = {k: v for k, v in asdict(wishes).items() if v is not False}
    chosen = {k: v for k, v in said.items() if v not in ("", (), None)}
    chosen = {k: [str(x) for x in v] if isinstance(v, tuple) else v for k, v in chosen.items()}
    chosen.pop("workers")  # changes no row
    return Plan(
        where=where,
        reader=reader,
        options=options,
        loader=Loader(
            Finder(tuple(roots), tuple(mapping)),
            rule,
            ClipCache(env.cache() / "clips"),
            _grey_range(wishes.grey_range),
        ),
        defaults=defaults,
        settings={**chosen, "reader": reader.name},
        limit=wishes.limit,
        workers=wishes.workers or len(os.sched_getaffinity(0)),
    )


def _grey_range(text: str) -> Range | None:
    if not text:
        return None
    low, colon, high = text.partition(":")
    if not (colon and low.isdecimal() and high.isdecimal() and int(low) < int(high) <= WORDS[1]):
        raise UserInputError(
            f"--grey-range is {text!r}; write it as LOW:HIGH, the values that are black and white, from"
            f" {WORDS[0]} to {WORDS[1]}"
        )
    return int(low), int(high)


def _pair(text: str, option: str) -> tuple[str, str]:
    left, equals, right = text.partition("=")
    if not equals or not left or not right:
        raise UserInputError(f"{option} is {text!r}; write it as OLD=NEW")
    return left, right


class _Progress:
    """One line that is written over in a terminal; elsewhere a line every ten seconds."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._live = self._console.is_terminal
        self._started = self._last = time.monotonic()

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._console.print(" " * 78, end="\r")

    def __call__(self, tally: Tally) -> None:
        now = time.monotonic()
        if now - self._last < (0.2 if self._live else REPORT_S):
            return
        self._last = now
        rate = (tally.good + tally.quarantined.total()) / (now - self._started)
        text = (
            f"{tally.good + tally.kept:,} rows, {tally.quarantined.total():,} left out,"
            f" {rate:,.0f} rows/s, {duration(now - self._started)}"
        )
        self._console.print(text.ljust(78), end="\r" if self._live else "\n")


def _say_kept(before: dict[str, Any], now: dict[str, Any]) -> None:
    """Options that an earlier import had otherwise: the rows that are there do not follow."""
    found_only = {"mapping", "media", "limit"}  # these say where and how much, not what
    names = (before.keys() | now.keys()) - found_only
    changed = [f"--{n.replace('_', '-')}" for n in sorted(names) if before.get(n) != now.get(n)]
    if changed:
        print(
            f"{', '.join(changed)} changed since the import before: rows that were there stay as"
            " they are; import into another --out to read all anew"
        )


def _say(result: Result, pool: Path, took_s: float) -> None:
    version, tally = result.version, result.tally
    if not result.changed:
        print(f"nothing new: {pool} stays version {version.id} with {version.rows:,} rows")
    else:
        kept = f", {tally.kept:,} were there" if tally.kept else ""
        print(
            f"{pool}: version {version.id}, {counted(version.rows, 'row', 'rows')} ({tally.good:,} new{kept});"
            f" {tally.quarantined.total():,} left out; {duration(took_s)}"
        )
    first: dict[str, str] = {}
    for row in read_quarantine(pool):
        first.setdefault(row["code"], f"{row['place']}: {row['reason']}"[:REASON_CHARS])
    rows = [
        [code, str(count), first.get(code) or CODES.get(code, "")]
        for code, count in sorted(tally.quarantined.items(), key=lambda item: -item[1])
    ]
    if rows:
        rows_table(["left out", "rows", "the first"], rows)
        print(f"{pool / QUARANTINE} names each; mend the source and type the same command again")
    free = version.counts["answer"].get("open", 0)
    if free:
        print(
            f"{counted(free, 'row has', 'rows have')} a free answer, which only a judge scores: set"
            " reward.judge.endpoint and reward.judge.model, or they earn 0"
        )
    text = version.counts["media_kind"].get("text", 0)
    weak = version.counts["family"].get("general", 0) - text
    families = ", ".join(f"{name} {n:,}" for name, n in version.counts["family"].items())
    console().print(f"families: {families}")
    if text:
        print(
            f"{counted(text, 'row has', 'rows have')} no picture and no video: general questions in text"
            " alone, as data.replay takes them"
        )
    if weak > 0:
        print(
            f"{counted(weak, 'row is', 'rows are')} general: no rule knew the family; `pelican data"
            " judge` asks a model, `pelican data correct` takes a person's word"
        )


# `pelican data judge`: a judge model labels what rules were not sure of.


def judge_and_print(
    pool: Path, endpoint: str, model: str, below: float, votes: int, workers: int
) -> None:
    """Raises UserInputError that names the option."""
    try:
        config = JudgeConfig(endpoint=endpoint, model=model, votes=votes, workers=workers)
    except ValidationError:
        raise UserInputError(f"--votes is {votes}; take an odd number, so that none ties") from None
    last = time.monotonic()

    def progress(asked: int) -> None:
        nonlocal last
        if time.monotonic() - last >= REPORT_S:
            last = time.monotonic()
            print(f"{asked:,} rows asked about", file=sys.stderr)

    found = judge_labels(pool, config, below, progress)
    left = found.asked - found.labelled
    print(
        f"{pool}: version {found.version.id}; {found.asked:,} rows below {below:g} were asked about,"
        f" {found.labelled:,} labelled ({found.moved:,} moved), {left:,} left as they were"
    )
    if found.labelled:
        print(
            f"{pool / LABELS} shows them with the judge's agreement; `pelican data correct` mends"
        )
