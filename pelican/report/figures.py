"""The figures of a report. Each takes plain numbers and returns SVG, or None without data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from pelican.evaluation.metrics import Estimate
from pelican.report.svg import Svg, colour, linear, number, shade, span, ticks

WIDTH = 760.0


@dataclass(frozen=True)
class Point:
    """One evaluation in figure 2."""

    label: str
    phase: str
    embodied: Estimate | None
    general: Estimate | None


@dataclass(frozen=True)
class Series:
    """One line of a panel: its name, its style and its points."""

    name: str
    style: str
    x: Sequence[float]
    y: Sequence[float]
    css: str = "line"


@dataclass(frozen=True)
class Panel:
    """One of several charts that share the vertical axis; `marks` are horizontal lines."""

    title: str
    series: Sequence[Series]
    marks: Sequence[tuple[float, str]] = ()


def stage_scores(points: Sequence[Point]) -> Markup | None:
    """Figure 2: embodied and general score of every stage with 95 % intervals, beside chance."""
    estimates = [e for p in points for e in (p.embodied, p.general) if e is not None]
    if not estimates:
        return None
    figure = Svg(WIDTH, 330, "Scores of every stage with 95 % intervals")
    left, right, top, bottom = 44.0, WIDTH - 96, 16.0, 284.0
    chance = next((p.embodied.chance for p in points if p.embodied), None)
    low, high = span([*(e.low for e in estimates), *(e.high for e in estimates), chance or 0.0])
    y = linear((max(0.0, low), min(100.0, high)), (bottom, top))
    step = (right - left) / max(1, len(points))
    _grid(figure, y, ticks(max(0.0, low), min(100.0, high), 7), left, right)
    for index, point in enumerate(points):
        middle = left + step * (index + 0.5)
        loop, _, phase = point.label.rpartition(" ")
        figure.text(middle, bottom + 20, phase or point.label, "label", "middle")
        if (loop and point.phase == "rl") or (loop and not _has(points, loop, "rl")):
            wide = _has(points, loop, "rl") and _has(points, loop, "sft")
            centre = middle + (step / 2 if wide else 0)
            figure.text(centre, bottom + 37, loop, "tick", "middle")
    if chance is not None:
        figure.line(left, y(chance), right, y(chance), "chance")
        figure.text(right + 8, y(chance) + 4, f"chance {chance:.1f}", "tick")
    ends: list[tuple[float, str, str]] = []
    for kind, shift, style in (
        ("general", 7.0, colour("general")),
        ("embodied", -7.0, colour("ink")),
    ):
        drawn = [
            (left + step * (i + 0.5) + shift, p, e)
            for i, p in enumerate(points)
            if (e := p.general if kind == "general" else p.embodied) is not None
        ]
        css = "line thin" if kind == "general" else "line"
        figure.path([(x, y(e.score)) for x, _, e in drawn], css, style)
        for x, point, e in drawn:
            look = style if kind == "general" else colour(point.phase)
            figure.line(x, y(e.low), x, y(e.high), "whisker", look)
            tip = f"{point.label}: {kind} {e.score:.1f} ({e.low:.1f} to {e.high:.1f}), n = {e.n}"
            figure.circle(x, y(e.score), 3.5 if kind == "general" else 5, "dot", look, tip)
        if drawn:
            last = drawn[-1][2].score
            ends.append((y(last), f"{kind} {last:.1f}", style))
    for place, words, style in _apart(ends, 15):
        figure.text(right + 8, place + 4, words, "end", style=style)
    return figure.markup()


def _has(points: Sequence[Point], loop: str, phase: str) -> bool:
    return any(p.label.rpartition(" ")[0] == loop and p.phase == phase for p in points)


def _apart(labels: list[tuple[float, str, str]], least: float) -> list[tuple[float, str, str]]:
    """Labels moved down until none covers another."""
    placed: list[tuple[float, str, str]] = []
    for place, words, style in sorted(labels):
        if placed and place - placed[-1][0] < least:
            place = placed[-1][0] + least
        placed.append((place, words, style))
    return placed


def _grid(
    figure: Svg, y: object, values: Sequence[float], left: float, right: float, text: bool = True
) -> None:
    for value in values:
        place = y(value)  # type: ignore[operator]
        figure.line(left, place, right, place)
        if text:
            figure.text(left - 8, place + 4, number(value), "tick", "end")


def before_after(
    rows: Sequence[tuple[str, Estimate | None, Estimate | None]], label: str
) -> Markup | None:
    """Per group: the base's score, the final score with its interval, and chance as a tick."""
    rows = [row for row in rows if row[1] or row[2]]
    if not rows:
        return None
    pitch, top, left = 30.0, 10.0, 176.0
    bottom = top + pitch * len(rows)
    figure = Svg(WIDTH, bottom + 28, label)
    right = WIDTH - 56
    x = linear((0, 100), (left, right))
    for value in (0, 20, 40, 60, 80, 100):
        figure.line(x(value), top, x(value), bottom)
        figure.text(x(value), bottom + 18, str(value), "tick", "middle")
    for index, (name, base, final) in enumerate(rows):
        y = top + pitch * (index + 0.5)
        figure.text(left - 14, y + 4, name, "label", "end")
        known = final or base
        if known is not None and known.chance > 0:
            tip = f"{name}: chance {known.chance:.1f}"
            figure.rect(x(known.chance) - 1, y - 8, 2, 16, "chance-tick", tip=tip)
        if base and final:
            style = colour("good" if final.score >= base.score else "bad")
            figure.line(x(base.score), y, x(final.score), y, "stem", style)
        if final:
            figure.line(x(final.low), y, x(final.high), y, "whisker", colour("final"))
            tip = f"{name}: {final.score:.1f} ({final.low:.1f} to {final.high:.1f}), n = {final.n}"
            figure.circle(x(final.score), y, 5.5, "dot", colour("final"), tip)
            if base:
                change = f"{final.score - base.score:+.1f}".replace("-", "\N{MINUS SIGN}")
                figure.text(WIDTH - 4, y + 4, change, "end", "end", colour("ink"))
        if base:
            tip = f"{name}, base: {base.score:.1f} ({base.low:.1f} to {base.high:.1f})"
            figure.circle(x(base.score), y, 5, "dot hollow", colour("base"), tip)
    return figure.markup()


def radar(
    names: Sequence[str], base: Sequence[float | None], final: Sequence[float | None]
) -> Markup | None:
    """The dimensions as a web from 0 in the middle to 100 at the rim."""
    if len(names) < 3 or not any(v is not None for v in [*base, *final]):
        return None
    figure = Svg(520, 400, "Scores of the nine dimensions, base and final")
    cx, cy, radius = 260.0, 200.0, 138.0
    angles = [math.tau * index / len(names) - math.pi / 2 for index in range(len(names))]

    def at(angle: float, score: float) -> tuple[float, float]:
        r = radius * score / 100
        return (cx + r * math.cos(angle), cy + r * math.sin(angle))

    for ring in (20, 40, 60, 80, 100):
        figure.path([at(angle, ring) for angle in angles], "ring", close=True)
        if ring < 100:
            figure.text(cx + 4, cy - radius * ring / 100 - 3, str(ring), "tick")
    for angle, name in zip(angles, names, strict=True):
        figure.line(cx, cy, *at(angle, 100))
        x, y = at(angle, 110)
        side = math.cos(angle)
        anchor = "middle" if abs(side) < 0.2 else "start" if side > 0 else "end"
        lines = _two_lines(name)
        down = y + 4 - 14 * (len(lines) - 1) * (1 - math.sin(angle)) / 2
        for row, words in enumerate(lines):
            figure.text(x, down + 14 * row, words, "label", anchor)
    for values, css, style in ((base, "web base", "base"), (final, "web", "final")):
        corners = [at(a, v) for a, v in zip(angles, values, strict=True) if v is not None]
        if len(corners) >= 3:
            figure.path(corners, css, colour(style), close=True)
        for name, angle, value in zip(names, angles, values, strict=True):
            if value is not None:
                tip = f"{name}, {style}: {value:.1f}"
                figure.circle(*at(angle, value), 3.2, "dot", colour(style), tip)
    return figure.markup()


def _two_lines(name: str) -> list[str]:
    words = name.split()
    if len(name) <= 12 or len(words) == 1:
        return [name]
    cut = min(
        range(1, len(words)),
        key=lambda i: max(len(" ".join(words[:i])), len(" ".join(words[i:]))),
    )
    return [" ".join(words[:cut]), " ".join(words[cut:])]


def success_distribution(
    panels: Sequence[tuple[str, Sequence[tuple[str, Mapping[float, int]]]]],
) -> Markup | None:
    """Figure 3: share of samples by success rate, one bar a loop, later loops darker.

    A panel is (title, [(loop's label, {success rate: samples})]).
    """
    panels = [panel for panel in panels if any(sum(c.values()) for _, c in panel[1])]
    if not panels:
        return None
    figure = Svg(WIDTH, 270, "Distribution of per-sample success rates per loop")
    gap, left, top, bottom = 44.0, 44.0, 34.0, 222.0
    width = (WIDTH - left - 8 - gap * (len(panels) - 1)) / len(panels)
    shares = [
        n / max(1, sum(counts.values()))
        for _, bars in panels
        for _, counts in bars
        for n in counts.values()
    ]
    highest = max(shares) * 1.05
    y = linear((0, highest), (bottom, top))
    for place, (title, bars) in enumerate(panels):
        x0 = left + place * (width + gap)
        _grid_percent(figure, highest, y, x0, x0 + width)
        figure.text(x0, top - 16, title, "panel-title")
        rates = sorted({rate for _, counts in bars for rate in counts})
        step = width / len(rates)
        bar = min(18.0, step * 0.8 / len(bars))
        for column, rate in enumerate(rates):
            start = x0 + step * (column + 0.5) - bar * len(bars) / 2
            if len(rates) <= 5 or (4 * rate).is_integer():
                middle = x0 + step * (column + 0.5)
                figure.text(middle, bottom + 18, _share(rate), "tick", "middle")
            for row, (label, counts) in enumerate(bars):
                share = counts.get(rate, 0) / max(1, sum(counts.values()))
                tip = f"{label}, success rate {_share(rate)}: {share:.1%} ({counts.get(rate, 0)})"
                height = bottom - y(share)
                figure.rect(
                    start + bar * row, y(share), bar - 1, height, "fill", shade(row, len(bars)), tip
                )
        figure.line(x0, bottom, x0 + width, bottom, "axis")
        figure.text(x0 + width / 2, bottom + 38, "success rate of a sample", "tick", "middle")
    return figure.markup()


def _grid_percent(figure: Svg, highest: float, y: object, left: float, right: float) -> None:
    for value in ticks(0, highest, 4):
        place = y(value)  # type: ignore[operator]
        figure.line(left, place, right, place)
        figure.text(left - 6, place + 4, f"{value:.0%}", "tick", "end")


def _share(rate: float) -> str:
    return f"{rate:.2f}".rstrip("0").rstrip(".")


def curves(panels: Sequence[Panel], label: str, x_label: str = "step") -> Markup | None:
    """Lines over steps, one panel a loop with a common vertical axis."""
    panels = [panel for panel in panels if any(len(s.x) for s in panel.series)]
    if not panels:
        return None
    figure = Svg(WIDTH, 250, label)
    gap, left, top, bottom = 26.0, 44.0, 34.0, 204.0
    width = (WIDTH - left - 10 - gap * (len(panels) - 1)) / len(panels)
    values = [v for panel in panels for s in panel.series for v in s.y]
    low, high = span([*values, *(m[0] for panel in panels for m in panel.marks)])
    if min(values, default=0) >= 0:
        low = max(0.0, low)
    y = linear((low, high), (bottom, top))
    for place, panel in enumerate(panels):
        x0 = left + place * (width + gap)
        figure.text(x0, top - 16, panel.title, "panel-title")
        _grid(figure, y, ticks(low, high, 4), x0, x0 + width, text=place == 0)
        steps = [v for s in panel.series for v in s.x]
        x = linear((min(steps), max(steps)), (x0 + 2, x0 + width - 2))
        for value in ticks(min(steps), max(steps), 4):
            figure.text(x(value), bottom + 18, number(value), "tick", "middle")
        for one in panel.series:
            points = [(x(a), y(b)) for a, b in zip(one.x, one.y, strict=True) if math.isfinite(b)]
            if len(points) == 1:
                figure.circle(*points[0], 3, "dot", one.style, one.name)
            figure.path(points, one.css, one.style)
        for value, words in panel.marks:
            figure.line(x0, y(value), x0 + width, y(value), "chance")
            figure.text(x0 + 4, y(value) - 5, words, "mark")
        figure.line(x0, bottom, x0 + width, bottom, "axis")
        figure.text(x0 + width / 2, bottom + 37, x_label, "tick", "middle")
    return figure.markup()


def stacks(
    rows: Sequence[tuple[str, Sequence[tuple[str, str, float]]]], label: str, unit: str
) -> Markup | None:
    """Horizontal stacked bars: (row, [(part, style, value)]); the total stands at the end."""
    rows = [row for row in rows if sum(value for _, _, value in row[1]) > 0]
    if not rows:
        return None
    pitch, top, left, right = 34.0, 4.0, 132.0, WIDTH - 84
    figure = Svg(WIDTH, top + pitch * len(rows) + 6, label)
    longest = max(sum(value for _, _, value in parts) for _, parts in rows)
    x = linear((0, longest), (0, right - left))
    for index, (name, parts) in enumerate(rows):
        y = top + pitch * index
        figure.text(left - 14, y + 20, name, "label", "end")
        start = left
        for part, style, value in parts:
            wide = x(value)
            tip = f"{name}, {part}: {value:,.0f} {unit}"
            figure.rect(start, y + 5, max(0.0, wide - 1), 22, "fill", style, tip)
            if wide > 46:
                figure.text(start + wide / 2, y + 20, f"{value:,.0f}", "in-bar", "middle")
            start += wide
        total = sum(value for _, _, value in parts)
        figure.text(start + 8, y + 20, f"{total:,.0f} {unit}", "tick")
    return figure.markup()
