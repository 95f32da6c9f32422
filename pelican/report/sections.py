"""The figures of a report, section by section: scores, practice, training, trajectories, contrast."""

from __future__ import annotations

import re
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pelican.config.stages import STAGES
from pelican.evaluation.metrics import Difference, Estimate
from pelican.records import EMBODIED_FAMILIES, Dimension
from pelican.report import charts
from pelican.report.charts import Panel, Point, Series, Trail, trails, tsne
from pelican.report.figure import Figure, Legend, Row, Table, Value, drop_empty, make_figure
from pelican.report.run import Evaluation, Run, StageRun, kind_of
from pelican.report.svg import colour, shade
from pelican.report.tables import sort_groups
from pelican.report.words import dimension, family, first_upper, place

# Scores of every stage (figure 2 of the paper), and capabilities before and after.

_ESTIMATE = ("score", "low", "high", "chance", "questions")
ScoreRow = tuple[str, Estimate | None, Estimate | None]


def score_figures(run: Run) -> list[Figure]:
    """The score of every stage of every loop."""
    found = run.evaluations
    points = [Point(e.label, e.phase, e.summary.embodied, e.summary.general) for e in found]
    rows = [
        [e.loop, e.phase, suite, *_numbers(estimate)]
        for e in found
        for suite, estimate in (("embodied", e.summary.embodied), ("general", e.summary.general))
        if estimate is not None
    ]
    return drop_empty(
        [
            make_figure(
                "scores",
                "Score of every stage of every loop",
                "Held-out questions, 0 to 100. Whiskers are 95 % intervals over scenes; they"
                " overstate the doubt about a difference, which the paired table below shows."
                " Figure 2 of the paper.",
                partial(charts.stage_scores, points),
                Table(("loop", "phase", "suite", *_ESTIMATE), rows),
                [
                    Legend("base", colour("base"), "dot"),
                    Legend("after RL", colour("rl"), "dot"),
                    Legend("after SFT", colour("sft"), "dot"),
                    Legend("general suite", colour("general"), "dot"),
                    Legend("chance", colour("muted"), "dash"),
                ],
            ),
            attempts_figure(
                {e.label: (e, shade(i, len(found))) for i, e in enumerate(found)}, "policy"
            ),
        ]
    )


def attempts_figure(evaluations: Mapping[str, tuple[Evaluation, str]], of: str) -> Figure | None:
    """p@k over k, a line each, where answers were sampled. The table has the greedy answers', too.

    Args:
        evaluations: by label, with the colour of the line.
        of: what a label names.
    """
    panels = []
    rows: list[Row] = []
    for suite, title in (("embodied", "Robot questions"), ("general", "General suite")):
        lines = []
        for label, (evaluation, style) in evaluations.items():
            found = evaluation.summary.sampled.get(suite)
            if found is None:
                continue
            ks, scores = list(map(float, found.at)), [one.score for one in found.at.values()]
            lines.append(Series(label, style, ks, scores))
            rows += [
                [suite, label, name, found.temperature, *_numbers(one)]
                for name, one in found.named().items()
            ]
        if lines:
            panels.append(Panel(title, lines))
    name = "Questions that one of k answers solves"
    return make_figure(
        "attempts",
        name,
        "p@k: answers are sampled at a temperature (`eval.samples`). Where a phase lifts the left end"
        " alone, the policy became surer of what it could do already; where it lifts the right end too, it"
        " can do more. Of guesses some are right as well: chance is in the table, beside the greedy answer's and"
        " the majority's success.",
        partial(charts.curves, panels, name, "k"),
        Table(("suite", of, "what", "temperature", *_ESTIMATE), rows),
        [Legend(label, style, "line") for label, (_, style) in evaluations.items()],
    )


def _numbers(estimate: Estimate) -> list[Value]:
    return [estimate.score, estimate.low, estimate.high, estimate.chance, estimate.n]


def capability_figures(base: Evaluation | None, final: Evaluation | None) -> list[Figure]:
    """Families and dimensions, base and final, and the radar of the nine dimensions."""
    legend = [Legend("base", colour("base"), "ring")] if base else []
    legend += [Legend(final.label, colour("final"), "dot")] if final else []
    with_chance = [*legend, Legend("chance", colour("muted"), "tick")]

    def rows(field: str, words_of: Callable[[str], str]) -> list[ScoreRow]:
        old: dict[str, Estimate] = getattr(base.summary, field) if base else {}
        new: dict[str, Estimate] = getattr(final.summary, field) if final else {}
        return [(words_of(n), old.get(n), new.get(n)) for n, _ in sort_groups(old | new)]

    def score(found: Evaluation | None, name: Dimension) -> float | None:
        number = found.summary.dimensions.get(name.value) if found else None
        return number.score if number else None

    families, dimensions = rows("families", family), rows("dimensions", dimension)
    web = {d: (score(base, d), score(final, d)) for d in Dimension}
    return drop_empty(
        [
            make_figure(
                "families",
                "Six task families",
                "Base and final score; the embodied score is the mean of these six. A family is the rule by"
                " which an answer is scored.",
                partial(charts.before_after, families, "Scores by task family"),
                _before_after("family", families),
                with_chance,
            ),
            make_figure(
                "dimensions",
                "Nine capability dimensions",
                "What a question asks of the policy, whatever its family: each carries one dimension. To"
                " count what stands left of a can is scored as counting and asks for spatial sense.",
                partial(charts.before_after, dimensions, "Scores by dimension"),
                _before_after("dimension", dimensions),
                with_chance,
            ),
            make_figure(
                "radar",
                "The shape of the nine dimensions",
                "0 in the middle, 100 at the rim.",
                partial(
                    charts.radar,
                    [dimension(d.value) for d in web],
                    [old for old, _ in web.values()],
                    [new for _, new in web.values()],
                ),
                Table(("dimension", "base", "final"), [[d.value, *web[d]] for d in web]),
                legend,
            ),
        ]
    )


def _before_after(kind: str, rows: Sequence[ScoreRow]) -> Table:
    found = [
        [name, when, *_numbers(estimate)]
        for name, old, new in rows
        for when, estimate in (("base", old), ("final", new))
        if estimate is not None
    ]
    return Table((kind, "policy", *_ESTIMATE), found)


# How success is spread over the samples, and how that shifts (figure 3 of the paper).

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
    return drop_empty(
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


# What went on in the RL and SFT phases, and where the time went.

# What a row of the mixture is, in words, and its colour; weak and random ones are in no run together.
_ORIGINS: Mapping[str, tuple[str, str]] = {
    "weak": ("weak", "o-weak"),
    "uniform": ("drawn at random", "o-weak"),
    "earlier": ("of earlier loops", "muted"),
    "assoc": ("related", "o-assoc"),
    "general": ("general replay", "o-general"),
}
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
    return drop_empty([*found, _flat(run)])


def _flat(run: Run) -> Figure | None:
    panels = []
    for stage, frame in run.tables("train-rl", "curve.parquet", ["step", "trained_flat"]).items():
        steps = frame.group_by("step").agg(pl.col("trained_flat").sum()).sort("step")
        if steps["trained_flat"].sum():
            values = steps["trained_flat"].cast(pl.Float64).to_list()
            line = Series("groups", colour("ink"), steps["step"].to_list(), values)
            panels.append(Panel(f"Loop {stage.loop}", [line]))
    title = "Groups without variance that RL trained on"
    return make_figure(
        "trained_flat",
        title,
        "Groups a step that filled the batch although their completions do not differ: they give no"
        " gradient but of the KL term.",
        partial(charts.curves, panels, title, "optimiser step"),
        _lines(panels, "groups"),
        [],
    )


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
    counts = {
        f"loop {stage.loop}": Counter(frame["origin"].to_list())
        for stage, frame in run.tables("distill", "mixture.parquet", ["origin"]).items()
    }
    there = {
        origin: (words, colour(name))
        for origin, (words, name) in _ORIGINS.items()
        if any(count[origin] for count in counts.values())
    }
    rows = [
        (loop, [(*shown, float(count[origin])) for origin, shown in there.items()])
        for loop, count in counts.items()
    ]
    panels = []
    for stage, frame in run.tables("train-sft", "curve.parquet", ["step", "loss"]).items():
        clean = frame.drop_nulls("loss").sort("step")
        series = Series("loss", colour("sft"), clean["step"].to_list(), clean["loss"].to_list())
        panels.append(Panel(f"Loop {stage.loop}", [series]))
    return drop_empty(
        [
            make_figure(
                "mixture",
                "What SFT trained on",
                "Rows by origin: weak samples that the teacher solved, related samples, general"
                " replay against forgetting; as the recipe says, samples drawn at random in place of the"
                " first two, and weak ones of earlier loops.",
                partial(charts.stacks, rows, "Rows of the SFT mixture by origin", "rows"),
                _parts("origin", "rows", rows),
                [Legend(words, style) for words, style in there.values()],
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
            [(name, colour(f"k-{name}"), spent[loop, name] / per) for name in STAGES],
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
        [Legend(name, colour(f"k-{name}")) for name in STAGES],
    )
    return drop_empty([figure])


def _parts(
    kind: str, unit: str, rows: Sequence[tuple[str, Sequence[tuple[str, str, float]]]]
) -> Table:
    found: list[Row] = [[when, name, value] for when, parts in rows for name, _, value in parts]
    return Table(("when", kind, unit), found)


# How the policy's trajectories move over the loops (figure 5 of the paper).

WIDTH = 512  # of an embedding
QUESTIONS = 300  # of each family: their centroid no longer changes visibly with more
_TOKEN = re.compile(r"\w+|[^\w\s]")


def trajectory_figures(run: Run) -> list[Figure]:
    """One point a family and evaluation: the centroid of its trajectories, in the plane by t-SNE."""
    keys, completions = _trajectories(run)
    if len({when for when, _ in keys}) < 2:
        return []
    places = tsne(_centroids(completions))
    labels = [e.label for e in run.evaluations]
    names = sorted({name for _, name in keys}, key=place)
    found = []
    for name in names:
        rows = [i for i, (_, n) in enumerate(keys) if n == name]
        points = [(labels[keys[i][0]], float(places[i, 0]), float(places[i, 1])) for i in rows]
        found.append(Trail(family(name), _style(name), points))
    table: list[Row] = [[t.name, when, x, y] for t in found for when, x, y in t.points]
    figure = make_figure(
        "trajectories",
        "Trajectories over the loops",
        "Centroids of the greedy completions to the same held-out questions, by family, from the"
        " base (ring) to the final policy (large); the plane is t-SNE's, so near means alike and"
        " lengths mean little. A completion is embedded by the words it holds (TF-IDF of words and"
        " word pairs), not by a model. Figure 5 of the paper.",
        partial(trails, found),
        Table(("family", "policy", "x", "y"), table),
        [Legend(trail.name, trail.style, "dot") for trail in found],
    )
    return drop_empty([figure])


def _style(name: str) -> str:
    known = ("affordance", "counting", "temporal", "success", "planning", "prediction", "general")
    return colour(f"f-{name}" if name in known else "muted")


def _trajectories(run: Run) -> tuple[list[tuple[int, str]], list[list[str]]]:
    """(evaluation's place, family), and the completions of each; the same questions everywhere."""
    keys: list[tuple[int, str]] = []
    found: list[list[str]] = []
    if not run.evaluations:
        return keys, found
    common = run.evaluations[0].results.select("suite", "sample_id")
    for evaluation in run.evaluations[1:]:
        common = common.join(evaluation.results, on=["suite", "sample_id"], how="semi")
    for index, evaluation in enumerate(run.evaluations):
        rows = evaluation.results.join(common, on=["suite", "sample_id"], how="semi")
        for (name,), part in rows.group_by("family"):
            order = part.sort(pl.col("sample_id").hash(seed=0), "sample_id").head(QUESTIONS)
            keys.append((index, str(name)))
            found.append(order["completion"].to_list())
    order_of = sorted(range(len(keys)), key=lambda i: keys[i])
    return [keys[i] for i in order_of], [found[i] for i in order_of]


def _centroids(groups: Sequence[Sequence[str]]) -> NDArray[np.float64]:
    """The mean embedding of each group of completions, [len(groups), WIDTH], each of length 1."""
    parts = [_word_counts(group) for group in groups]
    documents = np.sum([np.count_nonzero(part, axis=0) for part in parts], axis=0)
    total = sum(len(part) for part in parts)
    rarity = np.log((1 + total) / (1 + documents)) + 1
    centroids = np.stack([_unit(part * rarity).mean(axis=0) for part in parts])
    return _unit(centroids)


def _word_counts(completions: Sequence[str]) -> NDArray[np.float64]:
    """Hashed counts of words and word pairs; a hash's lowest bit is its sign."""
    found = np.zeros((len(completions), WIDTH))
    for row, completion in enumerate(completions):
        words = _TOKEN.findall(completion.lower())
        for token in (*words, *(f"{a} {b}" for a, b in pairwise(words))):
            code = zlib.crc32(token.encode("utf-8", "replace"))
            found[row, (code >> 1) % WIDTH] += 1.0 if code & 1 else -1.0
    return found


def _unit(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: NDArray[np.float64] = vectors / np.maximum(lengths, 1e-12)
    return unit


# Runs beside each other in gain and forgetting (figure 4 of the paper).

COLOURS = 10
Groups = list[tuple[str, list[tuple[str, str, Difference | None]]]]


def run_colour(index: int) -> str:
    """The colour of one run among several."""
    return colour(f"s-{index % COLOURS + 1}")


def contrast_figures(runs: Mapping[str, Run]) -> list[Figure]:
    """Each run's final policy against its own base. `runs`: label -> run."""
    changes = {
        label: run.compare_evaluations(run.base, run.final)
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
    return drop_empty(figures)


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
