"""The figures of a report. Each takes plain numbers and returns SVG, or None without data.

Every figure can be drawn at two widths: in the narrow one, for a phone, panels stand below each
other and labels above their rows, so that the text stays readable.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from pelican.evaluation.metrics import Estimate
from pelican.report.svg import WIDE, Svg, colour, linear, span, ticks, y_grid
from pelican.report.words import signed


@dataclass(frozen=True)
class Point:
    """One evaluation in figure 2."""

    label: str
    phase: str
    embodied: Estimate | None
    general: Estimate | None


def stage_scores(points: Sequence[Point], width: float = WIDE) -> Markup | None:
    """Figure 2: embodied and general score of every stage with 95 % intervals, beside chance."""
    estimates = [e for p in points for e in (p.embodied, p.general) if e is not None]
    if not estimates:
        return None
    small = width < WIDE
    figure = Svg(width, 330, "Scores of every stage with 95 % intervals")
    left, right, top, bottom = (
        (24.0 if small else 44.0),
        width - (102 if small else 96),
        16.0,
        284.0,
    )
    chance = next((p.embodied.chance for p in points if p.embodied), None)
    low, high = span([*(e.low for e in estimates), *(e.high for e in estimates), chance or 0.0])
    y = linear((max(0.0, low), min(100.0, high)), (bottom, top))
    step = (right - left) / max(1, len(points))
    apart = min(7.0, step / 7)
    y_grid(figure, y, ticks(max(0.0, low), min(100.0, high), 7), left, right)
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
        ("general", apart, colour("general")),
        ("embodied", -apart, colour("ink")),
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


def before_after(
    rows: Sequence[tuple[str, Estimate | None, Estimate | None]], label: str, width: float = WIDE
) -> Markup | None:
    """Per group: the base's score, the final score with its interval, and chance as a tick."""
    rows = [row for row in rows if row[1] or row[2]]
    if not rows:
        return None
    small = width < WIDE
    pitch, top, left = (44.0, 4.0, 10.0) if small else (30.0, 10.0, 176.0)
    bottom = top + pitch * len(rows)
    figure = Svg(width, bottom + 28, label)
    right = width - (48 if small else 56)
    x = linear((0, 100), (left, right))
    for value in (0, 20, 40, 60, 80, 100):
        figure.line(x(value), top, x(value), bottom)
        figure.text(x(value), bottom + 18, str(value), "tick", "middle")
    for index, (name, base, final) in enumerate(rows):
        y = top + pitch * (index + (0.68 if small else 0.5))
        if small:
            figure.text(0, y - 14, name, "label")
        else:
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
                change = signed(final.score - base.score)
                figure.text(width - 4, y + 4, change, "end", "end", colour("ink"))
        if base:
            tip = f"{name}, base: {base.score:.1f} ({base.low:.1f} to {base.high:.1f})"
            figure.circle(x(base.score), y, 5, "dot hollow", colour("base"), tip)
    return figure.markup()


def radar(
    names: Sequence[str],
    base: Sequence[float | None],
    final: Sequence[float | None],
    width: float = WIDE,
) -> Markup | None:
    """The dimensions as a web from 0 in the middle to 100 at the rim."""
    found = [
        ("base", "web base", colour("base"), base),
        ("final", "web", colour("final"), final),
    ]
    return webs(names, found, "Scores of the nine dimensions, base and final", width)


Web = tuple[str, str, str, Sequence[float | None]]  # name, class, style, a score per corner


def webs(
    names: Sequence[str], found: Sequence[Web], label: str, width: float = WIDE
) -> Markup | None:
    """Several webs over the same corners; an unknown score leaves its corner out."""
    if len(names) < 3 or not any(v is not None for _, _, _, values in found for v in values):
        return None
    small = width < WIDE
    size, radius = ((width, 270.0), 88.0) if small else ((520.0, 372.0), 138.0)
    figure = Svg(*size, label)
    cx, cy = size[0] / 2, size[1] / 2 + 10
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
    for web, css, style, values in found:
        corners = [at(a, v) for a, v in zip(angles, values, strict=True) if v is not None]
        if len(corners) >= 3:
            figure.path(corners, css, style, close=True)
        for name, angle, value in zip(names, angles, values, strict=True):
            if value is not None:
                figure.circle(*at(angle, value), 3.2, "dot", style, f"{name}, {web}: {value:.1f}")
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
