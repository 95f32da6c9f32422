"""How success is spread over the samples, and how that shifts (figure 3 of the paper)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial

import polars as pl

from pelican.report import charts
from pelican.report.export import Row, Table
from pelican.report.figure import Figure, Legend, drawn, make_figure
from pelican.report.run import Run, StageRun
from pelican.report.svg import colour, shade
from pelican.report.words import family, first_upper, place

Bars = list[tuple[str, dict[float, int]]]  # (when, {success rate: samples})
Panels = list[tuple[str, Bars]]
_STATES = [("mastered", "good"), ("practice", "rl"), ("intractable", "bad")]
_MOST_PANELS = 12


def practice_figures(run: Run) -> list[Figure]:
    """The ledger's distributions by phase and family, held-out ones by benchmark, and counts."""
    ledgers = run.tables("filter", "ledger.parquet", ["success_rate", "outcome", "family"])
    loops = sorted({stage.loop for stage in ledgers})
    by_loop = [Legend(f"loop {k}", shade(i, len(loops))) for i, k in enumerate(loops)]
    phases = [("rl", "Before RL"), ("sft", "After RL (weak mining)")]
    by_phase: Panels = [
        (
            title,
            [
                (f"loop {s.loop}", rates(f["success_rate"]))
                for s, f in ledgers.items()
                if s.phase == phase
            ],
        )
        for phase, title in phases
    ]
    return drawn(
        [
            make_figure(
                "distribution",
                "Per-sample success rates",
                "Share of the practised samples at each success rate, later loops darker. Training"
                " moves mass from left to right. Figure 3 of the paper.",
                partial(charts.success_distribution, by_phase),
                _table("phase", by_phase),
                by_loop,
            ),
            _shift(ledgers, "family", by_loop),
            _shift(ledgers, "source", by_loop),
            _held_out(run),
            _counts(ledgers),
        ]
    )


def rates(values: pl.Series, steps: int = 8) -> dict[float, int]:
    """Samples per success rate, each put to the nearest of `steps` equal steps."""
    counts = Counter(((values * steps).round() / steps).to_list())
    return {rate: counts[rate] for rate in sorted(counts)}


def _shift(
    ledgers: Mapping[StageRun, pl.DataFrame], by: str, legend: Sequence[Legend]
) -> Figure | None:
    """One panel a family or data set, of one phase alone: both phases have another T."""
    phase = "rl" if any(stage.phase == "rl" for stage in ledgers) else "sft"
    frames = {s: f for s, f in ledgers.items() if s.phase == phase and by in f.columns}
    names = sorted({str(n) for f in frames.values() for n in f[by].unique()}, key=place)
    if by == "source" and len(names) < 2:
        return None  # one data set: the figure above shows it
    panels: Panels = [
        (
            family(name) if by == "family" else name,
            [
                (f"loop {s.loop}", rates(f.filter(pl.col(by) == name)["success_rate"]))
                for s, f in frames.items()
            ],
        )
        for name in names[:_MOST_PANELS]
    ]
    when = "before each RL phase" if phase == "rl" else "before each SFT phase"
    more = f" The first {_MOST_PANELS} of {len(names)}." if len(names) > _MOST_PANELS else ""
    what = "task family" if by == "family" else "data set"
    return make_figure(
        f"shift-{by}",
        f"Shift of the success rates by {what}",
        f"The same, {when}, one panel a {what}; later loops darker.{more}",
        partial(charts.success_distribution, panels),
        _table(by, panels),
        legend,
    )


def _held_out(run: Run) -> Figure | None:
    """Task reward of the held-out answers, one panel a benchmark, later evaluations darker."""
    found = run.evaluations
    names = sorted({key for e in found for key in e.summary.benchmarks})
    panels: Panels = []
    for name in names[:_MOST_PANELS]:
        suite, _, benchmark = name.partition("/")
        bars = [
            (e.label, rates(e.results.filter(suite=suite, benchmark=benchmark)["task"], 4))
            for e in found
        ]
        panels.append((name, bars))
    return make_figure(
        "shift-benchmark",
        "Shift of the held-out rewards by benchmark",
        "Share of the held-out questions at each task reward, to the nearest quarter: every"
        " policy answers the same questions, once and greedily. Later policies darker.",
        partial(charts.success_distribution, panels, axis="task reward of a question"),
        _table("benchmark", panels),
        [Legend(e.label, shade(i, len(found))) for i, e in enumerate(found)],
    )


def _table(kind: str, panels: Panels) -> Table:
    rows: list[Row] = [
        [panel, when, rate, count, count / max(1, sum(counts.values()))]
        for panel, bars in panels
        for when, counts in bars
        for rate, count in counts.items()
    ]
    return Table((kind, "when", "rate", "samples", "share"), rows)


def _counts(ledgers: Mapping[StageRun, pl.DataFrame]) -> Figure | None:
    rows = [
        (
            f"loop {stage.loop} {'before' if stage.phase == 'rl' else 'after'} RL",
            [(name, colour(c), float((frame["outcome"] == name).sum())) for name, c in _STATES],
        )
        for stage, frame in ledgers.items()
    ]
    return make_figure(
        "ledger-counts",
        "The ledger, loop by loop",
        "Mastered: every rollout succeeds. Practice: some do, so RL can learn. Intractable:"
        " none does; after RL these are the weak set that goes to the teacher.",
        partial(charts.stacks, rows, "Samples by difficulty and loop", "samples"),
        Table(
            ("when", "difficulty", "samples"),
            [[when, name, n] for when, parts in rows for name, _, n in parts],
        ),
        [Legend(first_upper(name), colour(c)) for name, c in _STATES],
    )
