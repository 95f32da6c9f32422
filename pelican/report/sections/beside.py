"""Figures of runs side by side: their way over the loops, the nine dimensions, and what they cost."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from pelican.records import Dimension
from pelican.report import charts, figures
from pelican.report.charts import Panel, Series
from pelican.report.comparison import RunTable
from pelican.report.export import Table
from pelican.report.figure import Figure, Legend, drawn, make_figure
from pelican.report.run import Run
from pelican.report.sections.contrast import contrast_figures, run_colour
from pelican.report.words import dimension

_RADAR = 4  # webs above each other that can still be told apart


def beside_figures(runs: Mapping[str, Run], table: RunTable) -> list[Figure]:
    """What can be drawn of several runs together."""
    styles = {label: run_colour(i) for i, label in enumerate(runs)}
    return [
        *drawn([_progress(runs, styles)]),
        *contrast_figures(runs),
        *drawn([_radar(table, styles)]),
    ]


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
            figures.webs,
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
