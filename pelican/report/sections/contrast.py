"""Runs beside each other in gain and forgetting (figure 4 of the paper)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from pelican.evaluation.metrics import Difference
from pelican.report import charts
from pelican.report.export import Row, Table
from pelican.report.figure import Figure, Legend, drawn, make_figure
from pelican.report.run import Run, kind_of
from pelican.report.svg import colour
from pelican.report.words import dimension, family, place

COLOURS = 10
Groups = list[tuple[str, list[tuple[str, str, Difference | None]]]]


def run_colour(index: int) -> str:
    """The colour of one run among several."""
    return colour(f"s-{index % COLOURS + 1}")


def contrast_figures(runs: Mapping[str, Run]) -> list[Figure]:
    """Each run's final policy against its own base. `runs`: label -> run."""
    changes = {
        label: run.compared(run.base, run.final)
        for label, run in runs.items()
        if run.base is not None and run.final is not None
    }
    if len(changes) < 2:
        return []
    styles = {label: run_colour(i) for i, label in enumerate(runs)}
    kinds = {label: kind_of(run) for label, run in runs.items()}
    legend = [Legend(f"{label} ({kinds[label]})", styles[label], "dot") for label in changes]

    def groups(names: Sequence[str], of: str) -> Groups:
        table = {label: getattr(change, of) for label, change in changes.items()}
        words = family if of == "families" else dimension
        return [
            (words(name), [(c, styles[c], table[c].get(name)) for c in changes]) for name in names
        ]

    whole: Groups = [
        ("Gain: robot questions", [(c, styles[c], m.embodied) for c, m in changes.items()]),
        ("Forgetting: general suite", [(c, styles[c], m.general) for c, m in changes.items()]),
    ]
    note = (
        "Final policy minus the run's own base on the same held-out questions, in points, with"
        " paired 95 % intervals; left of zero is loss. "
    )
    figures = [
        _figure(
            "gain-forgetting",
            "Gain and forgetting",
            note + "Figure 4 of the paper.",
            whole,
            legend,
            kinds,
        )
    ]
    for of, title in (("families", "family"), ("dimensions", "dimension")):
        names = sorted({n for m in changes.values() for n in getattr(m, of)}, key=place)
        found = groups(names, of)
        figures.append(_figure(f"gain-{of}", f"Gain by {title}", note, found, legend, kinds))
    return drawn(figures)


def _figure(
    id: str,
    title: str,
    note: str,
    groups: Groups,
    legend: Sequence[Legend],
    kinds: Mapping[str, str],
) -> Figure | None:
    rows: list[Row] = [
        [name, label, kinds[label], change.delta, change.low, change.high, change.n]
        for name, parts in groups
        for label, _, change in parts
        if change is not None
    ]
    return make_figure(
        id,
        title,
        note.strip(),
        partial(charts.differences, groups, title),
        Table(("of", "run", "trained by", "change", "low", "high", "questions"), rows),
        legend,
    )
