"""Runs side by side: rows, paired differences, one page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

from pelican.base.model import Frozen, digest_of
from pelican.evaluation.metrics import Difference, Estimate, compare, total_difference
from pelican.records import Dimension
from pelican.report import charts
from pelican.report.charts import Panel, Series
from pelican.report.figure import Figure, Legend, Table, drop_empty, make_figure
from pelican.report.pages import keep_page, render_page
from pelican.report.run import (
    RESAMPLES,
    Cost,
    Evaluation,
    Run,
    cost_of,
    kind_of,
    label_runs,
    open_address,
)
from pelican.report.sections import attempts_figure, contrast_figures, run_colour
from pelican.report.words import dimension, place
from pelican.storage.store import ObjectStore

# Runs side by side as one HTML page that needs nothing else.


def build_comparison(store: ObjectStore, runs: Mapping[str, Run], table: RunTable) -> Path:
    """Write `comparisons/<digest of the runs>.html`; the same runs are the same page."""
    key = f"comparisons/{digest_of(sorted(f'{r.store.uri}/{r.name}' for r in runs.values()))}.html"
    return keep_page(store, key, render_comparison(runs, table))


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
    """Which run ended highest, and from which others it differs by more than noise."""
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


# Runs side by side: scores, paired differences, cost, recipes. Imports no torch.

MOST_PAIRED = 8  # runs of which every pair is compared; of more each with the first


def phase_totals(run: Run) -> dict[str, Difference]:
    """What all phases of one kind (`rl`, `sft`) gained together on the embodied score."""
    totals = {}
    for phase in ("rl", "sft"):
        steps = [
            (
                before.results.filter(suite="embodied"),
                after.results.filter(suite="embodied"),
            )
            for before, after in run.steps()
            if after.phase == phase
        ]
        total = total_difference(steps, "family", resamples=RESAMPLES, seed=run.seed)
        if total is not None:
            totals[phase] = total
    return totals


class RunRow(Frozen):
    """One run of a comparison; `against_first` is paired with the first run's final evaluation."""

    run: str
    kind: str
    pipeline: str
    recipe: str
    seed: int
    loops: int
    base: float | None
    final: float | None
    final_ci: tuple[float, float] | None
    gain: Difference | None
    general: float | None
    general_gain: Difference | None
    lost: int
    gained: int
    questions: int
    against_first: Difference | None
    general_against_first: Difference | None
    families: dict[str, Estimate]
    dimensions: dict[str, Estimate]
    cost: Cost


class Pair(Frozen):
    """`second` minus `first`, on the questions that the final policies of both answered."""

    first: str
    second: str
    embodied: Difference | None
    general: Difference | None


class RunTable(Frozen):
    """Runs side by side, and the fields of their recipes that differ (dotted path: run: value)."""

    rows: list[RunRow]
    pairs: list[Pair]
    recipe_differences: dict[str, dict[str, Any]]


def open_runs(store: ObjectStore, addresses: Sequence[str]) -> dict[str, Run]:
    """The runs by their labels, each once. Raises UserInputError for one that is not there."""
    return label_runs([open_address(address, store) for address in addresses])


def compare_runs(runs: Mapping[str, Run]) -> RunTable:
    """Final scores, paired on the same held-out questions; cost; recipes. `runs`: label -> run."""
    labels = list(runs)
    wanted = (
        list(combinations(labels, 2))
        if len(labels) <= MOST_PAIRED
        else [(labels[0], other) for other in labels[1:]]
    )
    pairs = {(a, b): pair_of(a, b, runs) for a, b in wanted}
    return RunTable(
        rows=[row_of(label, run, pairs.get((labels[0], label))) for label, run in runs.items()],
        pairs=list(pairs.values()),
        recipe_differences=recipe_differences({label: run.recipe for label, run in runs.items()}),
    )


def pair_of(first: str, second: str, runs: Mapping[str, Run]) -> Pair:
    """Two of `runs` compared. The seed is the first run's of the whole comparison, so that all pairs draw alike."""
    before, after = runs[first].final, runs[second].final
    seed = next(iter(runs.values())).seed
    found = (
        compare(before.results, after.results, resamples=RESAMPLES, seed=seed)
        if before is not None and after is not None
        else None
    )
    return Pair(
        first=first,
        second=second,
        embodied=found.embodied if found else None,
        general=found.general if found else None,
    )


def row_of(label: str, run: Run, against: Pair | None) -> RunRow:
    """One run; `against`: its comparison with the first run, if it is another."""
    base, final = run.base, run.final
    shown: Evaluation | None = final or base
    embodied = final.summary.embodied if final else None
    general = final.summary.general if final else None
    change = run.compare_evaluations(base, final) if base and final else None
    flips = (change.embodied_flips, change.general_flips) if change else ()
    return RunRow(
        run=label,
        kind=kind_of(run),
        pipeline=run.pipeline,
        recipe=str(run.recipe.get("name", "")),
        seed=run.seed,
        loops=max((e.loop for e in run.evaluations), default=0),
        base=base.summary.embodied.score if base and base.summary.embodied else None,
        final=embodied.score if embodied else None,
        final_ci=(embodied.low, embodied.high) if embodied else None,
        gain=change.embodied if change else None,
        general=general.score if general else None,
        general_gain=change.general if change else None,
        lost=sum(f.lost for f in flips),
        gained=sum(f.gained for f in flips),
        questions=len(shown.results) if shown else 0,
        against_first=against.embodied if against else None,
        general_against_first=against.general if against else None,
        families=final.summary.families if final else {},
        dimensions=final.summary.dimensions if final else {},
        cost=cost_of(run),
    )


def recipe_differences(recipes: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The fields, by dotted path, whose values are not the same in all recipes."""
    flat = {name: _flatten(recipe) for name, recipe in recipes.items()}
    paths = sorted({path for fields in flat.values() for path in fields})
    table = {path: {name: fields.get(path) for name, fields in flat.items()} for path in paths}
    return {
        path: values
        for path, values in table.items()
        if any(value != next(iter(values.values())) for value in values.values())
    }


def _flatten(value: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {path: value}
    found: dict[str, Any] = {}
    for name, inner in value.items():
        found |= _flatten(inner, f"{path}.{name}" if path else str(name))
    return found


# Figures of runs side by side: their way over the loops, the nine dimensions, and what they cost.

_RADAR = 4  # more webs above each other could not be read


def beside_figures(runs: Mapping[str, Run], table: RunTable) -> list[Figure]:
    """The figures of several runs together."""
    styles = {label: run_colour(i) for i, label in enumerate(runs)}
    return [
        *drop_empty([_progress(runs, styles)]),
        *contrast_figures(runs),
        *drop_empty([attempts_figure(_finals(runs, styles), "run")]),
        *drop_empty([_radar(table, styles)]),
    ]


def _finals(
    runs: Mapping[str, Run], styles: Mapping[str, str]
) -> dict[str, tuple[Evaluation, str]]:
    """The last evaluation of every run that has one, with the run's colour."""
    return {label: (run.final, styles[label]) for label, run in runs.items() if run.final}


def _progress(runs: Mapping[str, Run], styles: Mapping[str, str]) -> Figure | None:
    """Scores over training; half a loop is the evaluation after RL of a loop with both phases."""
    panels = []
    rows: list[list[str | float]] = []
    for suite in ("embodied", "general"):
        series = []
        for label, run in runs.items():
            points: list[tuple[float, float]] = []
            for evaluation in run.evaluations:
                estimate = getattr(evaluation.summary, suite)
                if estimate is not None:
                    half = 0.5 if evaluation.phase == "rl" and run.last_phase == "sft" else 0.0
                    points.append((evaluation.loop - half, estimate.score))
                    rows.append([suite, label, points[-1][0], estimate.score])
            xs, ys = [x for x, _ in points], [y for _, y in points]
            series.append(Series(label, styles[label], xs, ys))
        panels.append(
            Panel({"embodied": "Robot questions", "general": "General suite"}[suite], series)
        )
    return make_figure(
        "progress",
        "Scores over the loops",
        "Held-out questions, 0 to 100; halves are the evaluations after RL, before SFT.",
        partial(charts.curves, panels, "Scores of the runs over their loops", "loop"),
        Table(("suite", "run", "loop", "score"), rows),
        [Legend(label, style, "line") for label, style in styles.items()],
    )


def _radar(table: RunTable, styles: Mapping[str, str]) -> Figure | None:
    found = [row for row in table.rows if row.dimensions][:_RADAR]
    scores = {
        row.run: [e.score if (e := row.dimensions.get(d.value)) else None for d in Dimension]
        for row in found
    }
    more = f" The first {_RADAR} runs." if len(table.rows) > _RADAR else ""
    return make_figure(
        "radar",
        "The nine dimensions of the final policies",
        f"0 in the middle, 100 at the rim.{more}",
        partial(
            charts.webs,
            [dimension(d.value) for d in Dimension],
            [(name, "web open", styles[name], values) for name, values in scores.items()],
            "Scores of the nine dimensions, run by run",
        ),
        Table(
            ("dimension", "run", "score"),
            [
                [d.value, name, values[i]]
                for name, values in scores.items()
                for i, d in enumerate(Dimension)
            ],
        ),
        [Legend(name, styles[name], "dot") for name in scores],
    )
