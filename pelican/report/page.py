"""`report.html`: one self-contained page of a run, whether it finished, still runs or failed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from pelican.data.quarantine import CODES
from pelican.evaluation.metrics import Difference, Estimate
from pelican.evaluation.summary import Comparison
from pelican.records import EMBODIED_FAMILIES, Dimension
from pelican.report import charts, figures
from pelican.report.charts import Panel, Series
from pelican.report.comparison import phase_totals, seconds, tokens
from pelican.report.figures import Point
from pelican.report.ledger_view import OUTCOMES, view_forgotten, view_ledger
from pelican.report.run import Evaluation, Run, StageRun, open_run
from pelican.report.svg import NARROW, WIDE, colour, shade
from pelican.runs import FAILURE, RUN
from pelican.storage.objects import ObjectStore

PREFLIGHT = "preflight.json"
MINUS = "\N{MINUS SIGN}"
FAMILIES = {
    "affordance": "Affordance",
    "counting": "Counting and distance",
    "temporal": "Causal and temporal",
    "success": "Task success",
    "planning": "Task planning",
    "prediction": "Task prediction",
    "general": "General",
}
DIMENSIONS = {
    "physical_causal": "Physical and causal",
    "perception_grounding": "Perception and grounding",
    "quantitative_numerical": "Quantitative and numerical",
    "spatial_geometric": "Spatial and geometric",
    "temporal_sequential": "Temporal and sequential",
    "affordance_function": "Affordance and function",
    "multi_object_consistency": "Multi-object consistency",
    "scene_action_understanding": "Scene and action",
    "decision_planning": "Decision and planning",
}
_ORIGINS = {"weak": "weak", "assoc": "related", "general": "general replay"}


@dataclass(frozen=True)
class Legend:
    """One entry: its words, its style, and the shape of its key."""

    words: str
    style: str
    shape: str = "square"


@dataclass(frozen=True)
class Figure:
    """A drawing with its title, a line on how to read it, and its legend."""

    id: str
    title: str
    note: str
    wide: Markup
    narrow: Markup
    legend: Sequence[Legend] = ()


def build_report(store: ObjectStore, run: str) -> Path:
    """Write `runs/<run>/report.html` and return its path."""
    html = render(open_run(store, run))
    key = f"runs/{run}/report.html"
    store.write(key, html.encode())
    return store.local(key)


def render(run: Run) -> str:
    """The page as text."""
    environment = Environment(
        loader=PackageLoader("pelican.report", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters |= {
        "signed": signed,
        "duration": duration,
        "family": family,
        "in_order": lambda names: sorted(names, key=_place),
        "dimension": dimension,
        "one": lambda value: f"{value:.1f}",
        "first_upper": lambda words: words[:1].upper() + words[1:],
    }
    base, final = run.base, run.final
    change = run.compared(base, final) if base and final else None
    page = {
        "run": run,
        "state": _state(run),
        "verdict": verdict(run, change),
        "tiles": _tiles(run, change),
        "change": change,
        "phases": _phases(run),
        "totals": phase_totals(run),
        "groups": _groups(base, final, change),
        "scores": _drawn(_score_figures(run)),
        "capabilities": _drawn(_capability_figures(base, final)),
        "practice": _drawn(_practice_figures(run)),
        "rl": _drawn(_rl_figures(run)),
        "sft": _drawn(_sft_figures(run)),
        "acceptance": _acceptance(run),
        "forgotten": view_forgotten(run),
        "ledger": view_ledger(run),
        "outcomes": OUTCOMES,
        "cost": _drawn([_cost_figure(run)]),
        "stages": run.stages,
        "gates": _gates(run),
        "quarantine": _quarantine(run),
        "recipe": json.dumps(run.recipe, indent=1) if run.recipe else "",
        "seconds": seconds(run),
        "generated": tokens(run, "generated"),
        "trained": tokens(run, "trained"),
    }
    return environment.get_template("template.html.j2").render(page)


def signed(value: float) -> str:
    """+1.2 or a true minus sign; what rounds to zero has no sign."""
    words = f"{value:+.1f}".replace("-", MINUS)
    return "0.0" if words in ("+0.0", f"{MINUS}0.0") else words


def interval(change: Difference) -> str:
    """The paired interval in words."""
    return f"{signed(change.low)} to {signed(change.high)}"


def duration(value: float) -> str:
    """Seconds as `42 s`, `7 min 05 s` or `3 h 20 min`."""
    whole = round(value)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def family(name: str) -> str:
    return FAMILIES.get(name, name.replace("_", " ").capitalize())


def dimension(name: str) -> str:
    return DIMENSIONS.get(name, name.replace("_", " ").capitalize())


# --- the head of the page ---------------------------------------------------------------------


def _state(run: Run) -> dict[str, str]:
    """How far the run came, in one word and a sentence."""
    open_stages = [stage for stage in run.stages if stage.manifest is None]
    last = run.evaluations[-1] if run.evaluations else None
    if last and not open_stages and _is_last(run, last):
        return {"word": "finished", "words": ""}
    decided = last is not None and last.phase == _last_phase(run) and not open_stages
    if last and decided and any(not entry["gate"]["go_on"] for entry in _gates(run)[-1:]):
        return {"word": "stopped", "words": f"The gate of {last.label} said no."}
    failure = run.json(FAILURE)
    if isinstance(failure, dict):
        where = f"{failure.get('stage', 'a stage')}, loop {failure.get('loop', '?')}"
        return {"word": "failed", "words": f"{where}: {failure.get('message', 'see the log')}"}
    if open_stages:
        where = f"{open_stages[-1].name} of loop {open_stages[-1].loop}"
        return {"word": "unfinished", "words": f"The last stage without a result is {where}."}
    return {"word": "unfinished", "words": "More stages are to come."}


def _is_last(run: Run, evaluation: Evaluation) -> bool:
    """Whether the pipeline of this run ends with this evaluation."""
    if _pipeline(run) == "evaluate":
        return True
    loops = int(run.recipe.get("loops", 0))
    return evaluation.loop == loops > 0 and evaluation.phase == _last_phase(run)


def _pipeline(run: Run) -> str:
    submission = run.json(RUN)
    return str(submission.get("pipeline", "")) if isinstance(submission, dict) else ""


def _last_phase(run: Run) -> str:
    """The phase that ends a loop, whose evaluation decides whether there is another."""
    sft = run.recipe.get("sft", {}).get("enabled", True) and _pipeline(run) != "rl_only"
    return "sft" if sft else "rl"


def verdict(run: Run, change: Comparison | None) -> str:
    """What came of the run, in two sentences at most."""
    base, final = run.base, run.final
    if base is None or base.summary.embodied is None:
        return "Nothing has been evaluated yet."
    start = base.summary.embodied
    if final is None or final.summary.embodied is None or change is None or not change.embodied:
        return (
            f"The base scores {start.score:.1f} on the held-out robot questions, chance is"
            f" {start.chance:.1f}. No phase has been evaluated yet."
        )
    end, moved = final.summary.embodied, change.embodied
    if moved.better or moved.worse:
        how = "rose" if moved.better else "fell"
    else:
        how = "went, within noise,"
    words = (
        f"From the base to {final.label} the embodied score {how} from {start.score:.1f} to"
        f" {end.score:.1f}, {signed(moved.delta)} points (paired 95 % interval {interval(moved)};"
        f" chance is {end.chance:.1f})."
    )
    general = change.general
    if general is not None:
        noise = "" if general.better or general.worse else ", within noise"
        words += (
            f" The general suite moved by {signed(general.delta)} ({interval(general)}{noise})."
        )
    return words


def _tiles(run: Run, change: Comparison | None) -> list[dict[str, str]]:
    base, final = run.base, run.final
    if base is None or base.summary.embodied is None:
        return []
    shown = (final or base).summary
    tiles = [
        {
            "name": "embodied score",
            "value": f"{shown.embodied.score:.1f}" if shown.embodied else "–",
            "note": f"base {base.summary.embodied.score:.1f}, chance "
            f"{base.summary.embodied.chance:.1f}",
        }
    ]
    if change and change.embodied:
        moved = change.embodied
        tiles.append(
            {
                "name": "gain over the base",
                "value": signed(moved.delta),
                "note": f"95 % {interval(moved)}",
                "mood": "good" if moved.better else "bad" if moved.worse else "",
            }
        )
    if shown.general:
        tile = {
            "name": "general suite",
            "value": f"{shown.general.score:.1f}",
            "note": f"chance {shown.general.chance:.1f}",
        }
        if change and change.general:
            tile["note"] = f"{signed(change.general.delta)} ({interval(change.general)})"
            tile["mood"] = "bad" if change.general.worse else ""
        tiles.append(tile)
    tiles.append(
        {
            "name": "format rate",
            "value": f"{100 * shown.format_rate:.0f} %",
            "note": f"{shown.mean_tokens:.0f} tokens an answer",
        }
    )
    return [{"mood": ""} | tile for tile in tiles]


# --- tables -----------------------------------------------------------------------------------


def _phases(run: Run) -> list[dict[str, Any]]:
    return [
        {"evaluation": after, "change": run.compared(before, after)}
        for before, after in run.steps()
    ]


def _groups(
    base: Evaluation | None, final: Evaluation | None, change: Comparison | None
) -> list[dict[str, Any]]:
    """Rows of the tables by family, dimension and so on: name, base, final and difference."""
    shown = final or base
    if shown is None:
        return []
    tables: list[tuple[str, str, Callable[[str], str]]] = [
        ("families", "Family", family),
        ("dimensions", "Dimension", dimension),
        ("horizons", "Horizon", _horizon),
        ("benchmarks", "Benchmark", str),
    ]
    found = []
    for field, title, words in tables:
        now: dict[str, Estimate] = getattr(shown.summary, field)
        start: dict[str, Estimate] = getattr(base.summary, field) if base and final else {}
        moved: dict[str, Difference] = getattr(change, field, {}) if change else {}
        rows = [
            {"name": words(n), "base": start.get(n), "final": e, "change": moved.get(n)}
            for n, e in _ordered(now)
        ]
        found.append({"title": title, "rows": rows})
    return found


def _horizon(name: str) -> str:
    return {
        "image": "image",
        "clip_to_32s": "clip up to 32 s",
        "clip_over_32s": "clip over 32 s",
    }.get(name, name)


def _ordered(groups: dict[str, Estimate]) -> list[tuple[str, Estimate]]:
    return sorted(groups.items(), key=lambda item: _place(item[0]))


def _place(name: str) -> tuple[int, str]:
    """Families and dimensions in the order of the paper, then others by name."""
    known = [*FAMILIES, *DIMENSIONS]
    return (known.index(name) if name in known else len(known), name)


def _acceptance(run: Run) -> list[dict[str, Any]]:
    """How many of the weak samples the teacher could answer, by family and loop.

    The related and the general ones that it answered too are easier, and say nothing of the weak.
    """
    counts: dict[str, dict[int, list[int]]] = {}
    columns = ["origin", "family", "accepted"]
    for stage, frame in run.tables("distill", "teacher.parquet", columns).items():
        for name, accepted in frame.filter(origin="weak").select(columns[1:]).iter_rows():
            cell = counts.setdefault(name, {}).setdefault(stage.loop, [0, 0])
            cell[0] += bool(accepted)
            cell[1] += 1
    rows = [{"family": name, "loops": counts[name]} for name in sorted(counts, key=_place)]
    if len(rows) > 1:
        whole: dict[int, list[int]] = {}
        for loops in counts.values():
            for loop, (good, of) in loops.items():
                cell = whole.setdefault(loop, [0, 0])
                cell[0] += good
                cell[1] += of
        rows.append({"family": "all", "loops": whole})
    return rows


def _gates(run: Run) -> list[dict[str, Any]]:
    """The decisions at the end of each loop."""
    found = []
    for evaluation in run.evaluations:
        gate = run.json(f"{evaluation.prefix}/gate.json", below_run=False)
        if isinstance(gate, dict) and evaluation.phase == _last_phase(run):
            found.append({"label": evaluation.label, "gate": gate})
    return found


def _quarantine(run: Run) -> list[dict[str, Any]]:
    """Per pool with rows that preflight left out: how many for which reason, and the first."""
    found = run.json(PREFLIGHT)
    pools = found if isinstance(found, dict) else {}
    return [
        {
            "pool": name,
            "samples": pool.get("samples", 0),
            "reasons": [(CODES.get(code, code), n) for code, n in pool["quarantined"].items()],
            "total": sum(pool["quarantined"].values()),
            "rows": pool.get("quarantine", []),
        }
        for name, pool in pools.items()
        if isinstance(pool, dict) and pool.get("quarantined")
    ]


# --- figures ----------------------------------------------------------------------------------


def _drawn(made: Iterable[Figure | None]) -> list[Figure]:
    return [figure for figure in made if figure is not None]


def _figure(
    id: str,
    title: str,
    note: str,
    draw: Callable[[float], Markup | None],
    legend: Sequence[Legend] = (),
) -> Figure | None:
    wide, narrow = draw(WIDE), draw(NARROW)
    if wide is None or narrow is None:
        return None
    return Figure(id, title, note, wide, narrow, legend)


def _score_figures(run: Run) -> list[Figure | None]:
    points = [
        Point(_short(e), e.phase, e.summary.embodied, e.summary.general) for e in run.evaluations
    ]
    return [
        _figure(
            "scores",
            "Score of every stage of every loop",
            "Held-out questions, 0 to 100. Whiskers are 95 % intervals over scenes; they overstate"
            " the doubt about a difference, which the paired table below shows.",
            partial(figures.stage_scores, points),
            [
                Legend("base", colour("base"), "dot"),
                Legend("after RL", colour("rl"), "dot"),
                Legend("after SFT", colour("sft"), "dot"),
                Legend("general suite", colour("general"), "dot"),
                Legend("chance", colour("muted"), "dash"),
            ],
        )
    ]


def _short(evaluation: Evaluation) -> str:
    if evaluation.phase == "base":
        return "base"
    return f"loop {evaluation.loop} {evaluation.phase.upper()}"


def _capability_figures(base: Evaluation | None, final: Evaluation | None) -> list[Figure | None]:
    legend = [Legend("base", colour("base"), "ring")] if base else []
    legend += [Legend(final.label, colour("final"), "dot")] if final else []
    with_chance = [*legend, Legend("chance", colour("muted"), "tick")]

    def rows(field: str, words: Callable[[str], str]) -> Any:
        old: dict[str, Estimate] = getattr(base.summary, field) if base else {}
        new: dict[str, Estimate] = getattr(final.summary, field) if final else {}
        return [(words(n), old.get(n), new.get(n)) for n, _ in _ordered(old | new)]

    def score(found: Evaluation | None, name: Dimension) -> float | None:
        number = found.summary.dimensions.get(name.value) if found else None
        return number.score if number else None

    return [
        _figure(
            "families",
            "Six task families",
            "Base and final score; the embodied score is the mean of these six.",
            partial(figures.before_after, rows("families", family), "Scores by task family"),
            with_chance,
        ),
        _figure(
            "dimensions",
            "Nine capability dimensions",
            "Each question carries one dimension.",
            partial(figures.before_after, rows("dimensions", dimension), "Scores by dimension"),
            with_chance,
        ),
        _figure(
            "radar",
            "The shape of the nine dimensions",
            "0 in the middle, 100 at the rim.",
            partial(
                figures.radar,
                [dimension(d.value) for d in Dimension],
                [score(base, d) for d in Dimension],
                [score(final, d) for d in Dimension],
            ),
            legend,
        ),
    ]


def _practice_figures(run: Run) -> list[Figure | None]:
    ledgers = run.tables("filter", "ledger.parquet", ["success_rate", "outcome"])
    loops = sorted({stage.loop for stage in ledgers})
    panels = []
    for phase, title in (("rl", "Before RL"), ("sft", "After RL (weak mining)")):
        bars = [
            (f"loop {stage.loop}", _rates(frame))
            for stage, frame in ledgers.items()
            if stage.phase == phase
        ]
        panels.append((title, bars))
    states = [("mastered", "good"), ("practice", "rl"), ("intractable", "bad")]
    rows = [
        (
            f"loop {stage.loop} {'before' if stage.phase == 'rl' else 'after'} RL",
            [(name, colour(c), float((frame["outcome"] == name).sum())) for name, c in states],
        )
        for stage, frame in ledgers.items()
    ]
    return [
        _figure(
            "distribution",
            "Per-sample success rates",
            "Share of the practised samples at each success rate, later loops darker. Training"
            " moves mass from left to right.",
            partial(charts.success_distribution, panels),
            [Legend(f"loop {k}", shade(i, len(loops))) for i, k in enumerate(loops)],
        ),
        _figure(
            "ledger-counts",
            "The ledger, loop by loop",
            "Mastered: every rollout succeeds. Practice: some do, so RL can learn. Intractable:"
            " none does; after RL these are the weak set that goes to the teacher.",
            partial(charts.stacks, rows, "Samples by difficulty and loop", "samples"),
            [Legend(name, colour(c)) for name, c in states],
        ),
    ]


def _rates(frame: pl.DataFrame) -> dict[float, int]:
    """Samples per success rate; rates of other than whole eighths are put to the nearest."""
    rounded = (frame["success_rate"] * 8).round() / 8
    counts = Counter(rounded.to_list())
    return {rate: counts.get(rate, 0) for rate in sorted(counts)}


def _rl_figures(run: Run) -> list[Figure | None]:
    curves = run.tables("train-rl", "curve.parquet", ["step", "family"])
    stagnation = run.tables("train-rl", "stagnation.parquet", ["step", "mean_ts"])
    threshold = run.recipe.get("rl", {}).get("stop", {}).get("threshold")
    marks = [(float(threshold), f"stop {threshold}")] if threshold is not None else []
    legend = [Legend(family(f.value), colour(f"f-{f.value}"), "line") for f in EMBODIED_FAMILIES]
    ts_panels = []
    for stage, frame in stagnation.items():
        series = _by_family(frame, "ts") if {"family", "ts"} <= set(frame.columns) else []
        mean = frame.group_by("step").agg(pl.col("mean_ts").mean()).sort("step")
        whole = Series(
            "mean", colour("ink"), mean["step"].to_list(), mean["mean_ts"].to_list(), "line bold"
        )
        ts_panels.append(Panel(f"Loop {stage.loop}", [*series, whole], marks))
    per_family = [
        (
            "reward",
            "Reward during RL",
            "Mean reward of the rollouts of each family (format and task together), smoothed.",
        ),
        ("think_chars", "Length of thinking during RL", "Characters; a fall to nothing is a hack."),
    ]
    found = [
        _figure(
            "stagnation",
            "Stagnation",
            "TS of each family and their mean (heavy). RL stops where the mean reaches the"
            " threshold, after its least number of steps.",
            partial(charts.curves, ts_panels, "Stagnation during RL", "optimiser step"),
            [*legend, Legend("mean", colour("ink"), "line")],
        )
    ]
    for column, title, note in per_family:
        panels = [
            Panel(f"Loop {stage.loop}", _by_family(frame, column, smooth=0.25))
            for stage, frame in curves.items()
            if column in frame.columns
        ]
        found.append(
            _figure(
                column, title, note, partial(charts.curves, panels, title, "optimiser step"), legend
            )
        )
    return found


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


def _sft_figures(run: Run) -> list[Figure | None]:
    mixtures = run.tables("distill", "mixture.parquet", ["origin"])
    rows = []
    for stage, frame in mixtures.items():
        counts = Counter(str(origin) for origin in frame["origin"].to_list())
        known = [*_ORIGINS, *sorted(set(counts) - set(_ORIGINS))]
        parts = [
            (_ORIGINS.get(o, o), colour(f"o-{o}" if o in _ORIGINS else "muted"), float(counts[o]))
            for o in known
        ]
        rows.append((f"loop {stage.loop}", parts))
    losses = run.tables("train-sft", "curve.parquet", ["step", "loss"])
    panels = []
    for stage, frame in losses.items():
        clean = frame.drop_nulls("loss").sort("step")
        series = Series("loss", colour("sft"), clean["step"].to_list(), clean["loss"].to_list())
        panels.append(Panel(f"Loop {stage.loop}", [series]))
    return [
        _figure(
            "mixture",
            "What SFT trained on",
            "Rows by origin: weak samples that the teacher solved, related samples, general"
            " replay against forgetting.",
            partial(charts.stacks, rows, "Rows of the SFT mixture by origin", "rows"),
            [Legend(words, colour(f"o-{o}")) for o, words in _ORIGINS.items()],
        ),
        _figure(
            "sft-loss",
            "SFT loss",
            "Mean cross-entropy of the assistant's tokens, nats a token.",
            partial(charts.curves, panels, "SFT loss", "optimiser step"),
        ),
    ]


def _cost_figure(run: Run) -> Figure | None:
    kinds = ("rollout", "reward", "filter", "distill", "train-rl", "train-sft", "eval")
    loops = sorted({stage.loop for stage in run.stages if stage.manifest})

    def spent(stages: Iterable[StageRun], loop: int, name: str) -> float:
        mine = [s for s in stages if s.loop == loop and s.name == name and s.manifest]
        return sum(stage.manifest.seconds for stage in mine if stage.manifest)

    longest = max((spent(run.stages, k, n) for k in loops for n in kinds), default=0)
    unit, per = ("min", 60.0) if longest >= 600 else ("s", 1.0)
    rows = [
        (
            f"loop {loop}" if loop else "base",
            [(name, colour(f"k-{name}"), spent(run.stages, loop, name) / per) for name in kinds],
        )
        for loop in loops
    ]
    return _figure(
        "durations",
        "Where the time went",
        "Wall clock of the finished stages.",
        partial(charts.stacks, rows, "Duration of the stages by loop", unit),
        [Legend(name, colour(f"k-{name}")) for name in kinds],
    )
