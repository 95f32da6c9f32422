"""Runs side by side as one HTML page that needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pelican.digest import digest_of
from pelican.report.comparison import RunTable, compare_runs
from pelican.report.pages import render_page
from pelican.report.run import Run
from pelican.report.sections.beside import beside_figures
from pelican.report.words import place
from pelican.storage.objects import ObjectStore


def build_comparison(store: ObjectStore, runs: Mapping[str, Run], table: RunTable) -> Path:
    """Write `comparisons/<digest of the runs>.html`; the same runs are the same page."""
    key = f"comparisons/{digest_of(sorted(f'{r.store.uri}/{r.name}' for r in runs.values()))}.html"
    store.write(key, render_comparison(runs, table).encode())
    return store.local(key)


def render_comparison(runs: Mapping[str, Run], table: RunTable | None = None) -> str:
    """The page as text. `runs`: label -> run, the one that others are paired with first."""
    table = table or compare_runs(runs)
    families = sorted({name for row in table.rows for name in row.families}, key=place)
    dimensions = sorted({name for row in table.rows for name in row.dimensions}, key=place)
    return render_page(
        "compare.html.j2",
        table=table,
        labels=list(runs),
        verdict=verdict(table),
        families=families,
        dimensions=dimensions,
        pairs={(pair.first, pair.second): pair for pair in table.pairs},
        figures=beside_figures(runs, table),
    )


def verdict(table: RunTable) -> str:
    """Which run ended highest, and from which others it can be told apart."""
    scored = [row for row in table.rows if row.final is not None]
    if len(scored) < 2:
        return "Fewer than two of these runs have a trained policy that was evaluated."
    best = max(scored, key=lambda row: row.final or 0.0)
    apart: list[str] = []
    alike: list[str] = []
    unknown: list[str] = []
    for pair in table.pairs:
        if best.run not in (pair.first, pair.second):
            continue
        other = pair.second if pair.first == best.run else pair.first
        if pair.embodied is None:
            unknown.append(other)
        else:
            clear = pair.embodied.better or pair.embodied.worse
            (apart if clear else alike).append(other)
    words = [f"{best.run} ends highest on the robot questions, at {best.final:.1f}."]
    if apart:
        words.append(f"The paired interval tells it from {_and(apart)}.")
    if alike:
        words.append(f"Within noise it is not different from {_and(alike)}.")
    if unknown:
        words.append(f"No question is common with {_and(unknown)}.")
    return " ".join(words)


def _and(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
