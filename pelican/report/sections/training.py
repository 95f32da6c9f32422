"""What went on in the RL and SFT phases, and where the time went."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import partial

import polars as pl

from pelican.records import EMBODIED_FAMILIES
from pelican.report import charts
from pelican.report.charts import Panel, Series
from pelican.report.export import Row, Table
from pelican.report.figure import Figure, Legend, drawn, make_figure
from pelican.report.run import Run
from pelican.report.svg import colour
from pelican.report.words import family

_ORIGINS = {"weak": "weak", "assoc": "related", "general": "general replay"}
_KINDS = ("rollout", "reward", "filter", "distill", "train-rl", "train-sft", "eval")
_CURVES = (
    (
        "reward",
        "Reward during RL",
        "Mean reward of the rollouts of each family (format and task together), smoothed.",
    ),
    ("think_chars", "Length of thinking during RL", "Characters; a fall to nothing is a hack."),
)


def rl_figures(run: Run) -> list[Figure]:
    """Stagnation, reward and length of thinking over the steps of every RL phase."""
    legend = [Legend(family(f.value), colour(f"f-{f.value}"), "line") for f in EMBODIED_FAMILIES]
    curves = run.tables("train-rl", "curve.parquet", ["step", "family"])
    found = [_stagnation(run, legend)]
    for column, title, note in _CURVES:
        panels = [
            Panel(f"Loop {stage.loop}", _by_family(frame, column, smooth=0.25))
            for stage, frame in curves.items()
            if column in frame.columns
        ]
        draw = partial(charts.curves, panels, title, "optimiser step")
        found.append(make_figure(column, title, note, draw, _lines(panels, column), legend))
    return drawn(found)


def _stagnation(run: Run, legend: Sequence[Legend]) -> Figure | None:
    threshold = run.recipe.get("rl", {}).get("stop", {}).get("threshold")
    marks = [(float(threshold), f"stop {threshold}")] if threshold is not None else []
    panels = []
    for stage, frame in run.tables("train-rl", "stagnation.parquet", ["step", "mean_ts"]).items():
        series = _by_family(frame, "ts") if {"family", "ts"} <= set(frame.columns) else []
        mean = frame.group_by("step").agg(pl.col("mean_ts").mean()).sort("step")
        steps, values = mean["step"].to_list(), mean["mean_ts"].to_list()
        whole = Series("mean", colour("ink"), steps, values, "line bold")
        panels.append(Panel(f"Loop {stage.loop}", [*series, whole], marks))
    return make_figure(
        "stagnation",
        "Stagnation",
        "Stagnation (TS) of each family, and their mean (heavy): near 1 where a family's rollouts"
        " are all right or all wrong and their success rate no longer moves. RL stops where the"
        " mean reaches the threshold, or after rl.max_steps.",
        partial(charts.curves, panels, "Stagnation during RL", "optimiser step"),
        _lines(panels, "ts"),
        [*legend, Legend("mean", colour("ink"), "line")],
    )


def _by_family(frame: pl.DataFrame, column: str, smooth: float = 1.0) -> list[Series]:
    series = []
    for name in EMBODIED_FAMILIES:
        rows = frame.filter(pl.col("family") == name.value).drop_nulls(column)
        rows = rows.group_by("step").agg(pl.col(column).cast(pl.Float64).mean()).sort("step")
        if len(rows):
            values = rows[column].ewm_mean(alpha=smooth, adjust=False).to_list()
            style = colour(f"f-{name.value}")
            series.append(Series(family(name.value), style, rows["step"].to_list(), values))
    return series


def _lines(panels: Sequence[Panel], value: str) -> Table:
    rows: list[Row] = [
        [panel.title, series.name, x, y]
        for panel in panels
        for series in panel.series
        for x, y in zip(series.x, series.y, strict=True)
    ]
    return Table(("loop", "line", "step", value), rows)


def sft_figures(run: Run) -> list[Figure]:
    """What SFT trained on, and its loss."""
    rows = []
    for stage, frame in run.tables("distill", "mixture.parquet", ["origin"]).items():
        counts = Counter(str(origin) for origin in frame["origin"].to_list())
        known = [*_ORIGINS, *sorted(set(counts) - set(_ORIGINS))]
        parts = [
            (_ORIGINS.get(o, o), colour(f"o-{o}" if o in _ORIGINS else "muted"), float(counts[o]))
            for o in known
        ]
        rows.append((f"loop {stage.loop}", parts))
    panels = []
    for stage, frame in run.tables("train-sft", "curve.parquet", ["step", "loss"]).items():
        clean = frame.drop_nulls("loss").sort("step")
        series = Series("loss", colour("sft"), clean["step"].to_list(), clean["loss"].to_list())
        panels.append(Panel(f"Loop {stage.loop}", [series]))
    return drawn(
        [
            make_figure(
                "mixture",
                "What SFT trained on",
                "Rows by origin: weak samples that the teacher solved, related samples, general"
                " replay against forgetting.",
                partial(charts.stacks, rows, "Rows of the SFT mixture by origin", "rows"),
                _parts("origin", "rows", rows),
                [Legend(words, colour(f"o-{o}")) for o, words in _ORIGINS.items()],
            ),
            make_figure(
                "sft-loss",
                "SFT loss",
                "Mean cross-entropy of the assistant's tokens, nats a token.",
                partial(charts.curves, panels, "SFT loss", "optimiser step"),
                _lines(panels, "loss"),
            ),
        ]
    )


def cost_figures(run: Run) -> list[Figure]:
    """Wall clock by loop and stage."""
    loops = sorted({stage.loop for stage in run.stages if stage.manifest})
    spent: defaultdict[tuple[int, str], float] = defaultdict(float)
    for stage in run.stages:
        if stage.manifest:
            spent[stage.loop, stage.name] += stage.manifest.seconds
    unit, per = ("min", 60.0) if max(spent.values(), default=0) >= 600 else ("s", 1.0)
    rows = [
        (
            f"loop {loop}" if loop else "base",
            [(name, colour(f"k-{name}"), spent[loop, name] / per) for name in _KINDS],
        )
        for loop in loops
    ]
    figure = make_figure(
        "durations",
        "Where the time went",
        f"Wall clock of the finished stages, in {'minutes' if unit == 'min' else 'seconds'}; a loop's"
        " sum at its end.",
        partial(charts.stacks, rows, "Duration of the stages by loop", unit),
        _parts("stage", unit, rows),
        [Legend(name, colour(f"k-{name}")) for name in _KINDS],
    )
    return drawn([figure])


def _parts(
    kind: str, unit: str, rows: Sequence[tuple[str, Sequence[tuple[str, str, float]]]]
) -> Table:
    found: list[Row] = [[when, name, value] for when, parts in rows for name, _, value in parts]
    return Table(("when", kind, unit), found)
