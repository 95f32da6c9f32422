"""Scores of every stage (figure 2 of the paper), and capabilities before and after."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from pelican.evaluation.metrics import Estimate
from pelican.records import Dimension
from pelican.report import figures
from pelican.report.export import Table, Value
from pelican.report.figure import Figure, Legend, drawn, make_figure
from pelican.report.figures import Point
from pelican.report.run import Evaluation, Run
from pelican.report.svg import colour
from pelican.report.tables import ordered
from pelican.report.words import dimension, family

_ESTIMATE = ("score", "low", "high", "chance", "questions")
Row = tuple[str, Estimate | None, Estimate | None]


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
    return drawn(
        [
            make_figure(
                "scores",
                "Score of every stage of every loop",
                "Held-out questions, 0 to 100. Whiskers are 95 % intervals over scenes; they"
                " overstate the doubt about a difference, which the paired table below shows."
                " Figure 2 of the paper.",
                partial(figures.stage_scores, points),
                Table(("loop", "phase", "suite", *_ESTIMATE), rows),
                [
                    Legend("base", colour("base"), "dot"),
                    Legend("after RL", colour("rl"), "dot"),
                    Legend("after SFT", colour("sft"), "dot"),
                    Legend("general suite", colour("general"), "dot"),
                    Legend("chance", colour("muted"), "dash"),
                ],
            )
        ]
    )


def _numbers(estimate: Estimate) -> list[Value]:
    return [estimate.score, estimate.low, estimate.high, estimate.chance, estimate.n]


def capability_figures(base: Evaluation | None, final: Evaluation | None) -> list[Figure]:
    """Families and dimensions, base and final, and the radar of the nine dimensions."""
    legend = [Legend("base", colour("base"), "ring")] if base else []
    legend += [Legend(final.label, colour("final"), "dot")] if final else []
    with_chance = [*legend, Legend("chance", colour("muted"), "tick")]

    def rows(field: str, named: Callable[[str], str]) -> list[Row]:
        old: dict[str, Estimate] = getattr(base.summary, field) if base else {}
        new: dict[str, Estimate] = getattr(final.summary, field) if final else {}
        return [(named(n), old.get(n), new.get(n)) for n, _ in ordered(old | new)]

    def score(found: Evaluation | None, name: Dimension) -> float | None:
        number = found.summary.dimensions.get(name.value) if found else None
        return number.score if number else None

    families, dimensions = rows("families", family), rows("dimensions", dimension)
    web = {d: (score(base, d), score(final, d)) for d in Dimension}
    return drawn(
        [
            make_figure(
                "families",
                "Six task families",
                "Base and final score; the embodied score is the mean of these six. A family is the rule by"
                " which an answer is scored.",
                partial(figures.before_after, families, "Scores by task family"),
                _before_after("family", families),
                with_chance,
            ),
            make_figure(
                "dimensions",
                "Nine capability dimensions",
                "What a question asks of the policy, whatever its family: each carries one dimension. To"
                " count what stands left of a can is scored as counting and asks for spatial sense.",
                partial(figures.before_after, dimensions, "Scores by dimension"),
                _before_after("dimension", dimensions),
                with_chance,
            ),
            make_figure(
                "radar",
                "The shape of the nine dimensions",
                "0 in the middle, 100 at the rim.",
                partial(
                    figures.radar,
                    [dimension(d.value) for d in web],
                    [old for old, _ in web.values()],
                    [new for _, new in web.values()],
                ),
                Table(("dimension", "base", "final"), [[d.value, *web[d]] for d in web]),
                legend,
            ),
        ]
    )


def _before_after(kind: str, rows: Sequence[Row]) -> Table:
    found = [
        [name, when, *_numbers(estimate)]
        for name, old, new in rows
        for when, estimate in (("base", old), ("final", new))
        if estimate is not None
    ]
    return Table((kind, "policy", *_ESTIMATE), found)
