"""The charts of a report: plain numbers in, SVG out, None where there is nothing to draw.

Every chart can be drawn at two widths. In the narrow one, for a phone, panels stand below each other
and labels above their rows, so that the text stays readable.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from pelican.evaluation.metrics import Difference, Estimate
from pelican.report.svg import WIDE, Svg, colour, linear, number, shade, span, ticks, y_grid
from pelican.report.words import signed

# Scores: of every stage (figure 2 of the paper), of families and dimensions before and after.


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
        shown = [
            (left + step * (i + 0.5) + shift, p, e)
            for i, p in enumerate(points)
            if (e := p.general if kind == "general" else p.embodied) is not None
        ]
        css = "line thin" if kind == "general" else "line"
        figure.path([(x, y(e.score)) for x, _, e in shown], css, style)
        for x, point, e in shown:
            look = style if kind == "general" else colour(point.phase)
            figure.line(x, y(e.low), x, y(e.high), "whisker", look)
            tip = f"{point.label}: {kind} {e.score:.1f} ({e.low:.1f} to {e.high:.1f}), n = {e.n}"
            figure.circle(x, y(e.score), 3.5 if kind == "general" else 5, "dot", look, tip)
        if shown:
            last = shown[-1][2].score
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


# What went on in a run: distributions, curves over steps, stacked bars, paired differences.


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


@dataclass(frozen=True)
class PanelGrid:
    """Where `count` equal panels stand: side by side, or below each other where it is narrow."""

    count: int
    width: float
    height: float
    gap: float

    @property
    def columns(self) -> int:
        return min(self.count, 3) if self.width >= WIDE else 1

    @property
    def whole(self) -> float:
        """Height of the drawing."""
        return self.height * math.ceil(self.count / self.columns)

    def box(self, place: int) -> tuple[float, float, float, float]:
        """Left, right, top and bottom of one panel's plot."""
        left = 40.0
        wide = (self.width - left - 10 - self.gap * (self.columns - 1)) / self.columns
        row, column = divmod(place, self.columns)
        x0, y0 = left + column * (wide + self.gap), row * self.height
        return x0, x0 + wide, y0 + 34, y0 + self.height - 46

    def first_of_row(self, place: int) -> bool:
        return place % self.columns == 0


def success_distribution(
    panels: Sequence[tuple[str, Sequence[tuple[str, Mapping[float, int]]]]],
    width: float = WIDE,
    axis: str = "success rate of a sample",
) -> Markup | None:
    """Figure 3: share of samples by success rate, one bar a loop, later loops darker.

    A panel is (title, [(loop's label, {success rate: samples})]).
    """
    panels = [panel for panel in panels if any(sum(c.values()) for _, c in panel[1])]
    if not panels:
        return None
    grid = PanelGrid(len(panels), width, height=270, gap=44)
    figure = Svg(width, grid.whole, "Distribution of per-sample success rates per loop")
    shares = [
        n / max(1, sum(counts.values()))
        for _, bars in panels
        for _, counts in bars
        for n in counts.values()
    ]
    highest = max(shares) * 1.05
    for place, (title, bars) in enumerate(panels):
        x0, x1, top, bottom = grid.box(place)
        y = linear((0, highest), (bottom, top))
        y_grid(figure, y, ticks(0, highest, 4), x0, x1, lambda share: f"{share:.0%}")
        figure.text(x0, top - 16, title, "panel-title")
        rates = sorted({rate for _, counts in bars for rate in counts})
        step = (x1 - x0) / len(rates)
        bar = min(18.0, step * 0.8 / len(bars))
        for column, rate in enumerate(rates):
            start = x0 + step * (column + 0.5) - bar * len(bars) / 2
            if len(rates) <= 5 or (4 * rate).is_integer():
                middle = x0 + step * (column + 0.5)
                figure.text(middle, bottom + 18, _share(rate), "tick", "middle")
            for row, (label, counts) in enumerate(bars):
                share = counts.get(rate, 0) / max(1, sum(counts.values()))
                tip = f"{label}, {_share(rate)}: {share:.1%} ({counts.get(rate, 0)})"
                height = bottom - y(share)
                figure.rect(
                    start + bar * row, y(share), bar - 1, height, "fill", shade(row, len(bars)), tip
                )
        figure.line(x0, bottom, x1, bottom, "axis")
        figure.text((x0 + x1) / 2, bottom + 38, axis, "tick", "middle")
    return figure.markup()


def _share(rate: float) -> str:
    return f"{rate:.2f}".rstrip("0").rstrip(".")


def curves(
    panels: Sequence[Panel], label: str, x_label: str = "step", width: float = WIDE
) -> Markup | None:
    """Lines over steps, one panel a loop with a common vertical axis."""
    panels = [panel for panel in panels if any(len(s.x) for s in panel.series)]
    if not panels:
        return None
    grid = PanelGrid(len(panels), width, height=250, gap=26)
    figure = Svg(width, grid.whole, label)
    values = [v for panel in panels for s in panel.series for v in s.y]
    low, high = span([*values, *(m[0] for panel in panels for m in panel.marks)])
    if min(values, default=0) >= 0:
        low = max(0.0, low)
    for place, panel in enumerate(panels):
        x0, x1, top, bottom = grid.box(place)
        y = linear((low, high), (bottom, top))
        figure.text(x0, top - 16, panel.title, "panel-title")
        words = number if grid.first_of_row(place) else None
        y_grid(figure, y, ticks(low, high, 4), x0, x1, words)
        steps = [v for s in panel.series for v in s.x]
        x = linear((min(steps), max(steps)), (x0 + 2, x1 - 2))
        for value in ticks(min(steps), max(steps), 4):
            figure.text(x(value), bottom + 18, number(value), "tick", "middle")
        for one in panel.series:
            points = [(x(a), y(b)) for a, b in zip(one.x, one.y, strict=True) if math.isfinite(b)]
            if len(points) == 1:
                figure.circle(*points[0], 3, "dot", one.style, one.name)
            figure.path(points, one.css, one.style)
        for value, mark in panel.marks:
            figure.line(x0, y(value), x1, y(value), "chance")
            figure.text(x0 + 4, y(value) - 5, mark, "mark")
        figure.line(x0, bottom, x1, bottom, "axis")
        figure.text((x0 + x1) / 2, bottom + 37, x_label, "tick", "middle")
    return figure.markup()


def stacks(
    rows: Sequence[tuple[str, Sequence[tuple[str, str, float]]]],
    label: str,
    unit: str,
    width: float = WIDE,
) -> Markup | None:
    """Horizontal stacked bars: (row, [(part, style, value)]); the total stands at the end."""
    rows = [row for row in rows if sum(value for _, _, value in row[1]) > 0]
    if not rows:
        return None
    small = width < WIDE
    pitch, top, left, right = (
        (50.0, 18.0, 0.0, width - 78) if small else (34.0, 4.0, 132.0, width - 84)
    )
    figure = Svg(width, top + pitch * len(rows) - (14 if small else -6), label)
    longest = max(sum(value for _, _, value in parts) for _, parts in rows)
    x = linear((0, longest), (0, right - left))
    for index, (name, parts) in enumerate(rows):
        y = top + pitch * index
        if small:
            figure.text(0, y - 2, name, "label")
        else:
            figure.text(left - 14, y + 20, name, "label", "end")
        start = left
        for part, style, value in parts:
            wide = x(value)
            tip = f"{name}, {part}: {value:,.0f} {unit}"
            figure.rect(start, y + 5, max(0.0, wide - 1), 22, "fill", style, tip)
            words = f"{value:,.0f}"
            if wide > 10 + 7 * len(words):
                figure.text(start + wide / 2, y + 20, words, "in-bar", "middle")
            start += wide
        total = sum(value for _, _, value in parts)
        figure.text(start + 8, y + 20, f"{total:,.0f} {unit}", "tick")
    return figure.markup()


def differences(
    groups: Sequence[tuple[str, Sequence[tuple[str, str, Difference | None]]]],
    label: str,
    width: float = WIDE,
) -> Markup | None:
    """Figure 4: per group one row a run, its change with a paired interval, left and right of zero.

    A group is (its name, [(run, style, change)]).
    """
    known = [c for _, parts in groups for _, _, c in parts if c is not None]
    if not known:
        return None
    small = width < WIDE
    left, right = (10.0, width - 52) if small else (186.0, width - 64)
    pitch, head = 19.0, (24.0 if small else 12.0)
    heights = [head + pitch * len(parts) for _, parts in groups]
    bottom = sum(heights) + 4
    figure = Svg(width, bottom + 42, label)
    low, high = span([0.0, *(c.low for c in known), *(c.high for c in known)])
    x = linear((low, high), (left, right))
    for value in ticks(low, high, 5 if small else 8):
        figure.line(x(value), 4, x(value), bottom)
        figure.text(x(value), bottom + 18, number(value), "tick", "middle")
    figure.line(x(0), 0, x(0), bottom, "axis")
    top = 0.0
    for (name, parts), height in zip(groups, heights, strict=True):
        if small:
            figure.text(0, top + 16, name, "label")
        else:
            figure.text(left - 14, top + head / 2 + height / 2 + 3, name, "label", "end")
        for row, (run, style, change) in enumerate(parts):
            if change is None:
                continue
            y = top + head + pitch * (row + 0.5)
            tip = f"{name}, {run}: {change.delta:+.1f} ({change.low:+.1f} to {change.high:+.1f})"
            figure.line(x(0), y, x(change.delta), y, "stem", style)
            figure.line(x(change.low), y, x(change.high), y, "whisker", style)
            figure.circle(x(change.delta), y, 4.6, "dot", style, tip)
            figure.text(width - 4, y + 4, signed(change.delta), "end", "end", style)
        top += height
    figure.text((left + right) / 2, bottom + 37, "points", "tick", "middle")
    return figure.markup()


# Figure 5 of the paper: how each family's trajectories move through the plane.


@dataclass(frozen=True)
class Trail:
    """Where one family's trajectories lie, policy by policy: (label, x, y)."""

    name: str
    style: str
    points: Sequence[tuple[str, float, float]]


def trails(found: Sequence[Trail], width: float = WIDE) -> Markup | None:
    """Figure 5: a path a family through the plane, from a ring to a large dot, fainter early."""
    everything = [p for trail in found for p in trail.points]
    if len(everything) < 3:
        return None
    small = width < WIDE
    height, margin = (330.0, 20.0) if small else (430.0, 34.0)
    figure = Svg(width, height, "Centroids of the trajectories by family, policy by policy")
    x = linear(span([p[1] for p in everything]), (margin, width - margin))
    y = linear(span([p[2] for p in everything]), (height - margin, margin))
    for trail in found:
        places = [(x(a), y(b)) for _, a, b in trail.points]
        figure.path(places, "line thin faint", trail.style)
        for index, ((label, _, _), (px, py)) in enumerate(zip(trail.points, places, strict=True)):
            tip = f"{trail.name}, {label}"
            if index == 0:
                figure.circle(px, py, 4.5, "dot hollow", trail.style, tip)
            elif index == len(places) - 1:
                figure.circle(px, py, 7.5, "dot", trail.style, tip)
            else:
                share = round(40 + 60 * index / (len(places) - 1))
                of = trail.style.removeprefix("--c:")
                style = f"--c:color-mix(in srgb,{of} {share}%,var(--panel))"
                figure.circle(px, py, 5, "dot", style, tip)
    ends = [(y(t.points[-1][2]) + 4, x(t.points[-1][1]), t) for t in found if t.points]
    for place, px, trail in sorted(ends, key=lambda end: end[0]):
        left = px > width * 0.7
        at = px - 11 if left else px + 11
        figure.text(at, place, trail.name, "mark end", "end" if left else "start", trail.style)
    return figure.markup()


# t-SNE of a few hundred points, exact (van der Maaten and Hinton, JMLR 9, 2008), in numpy.
#
# A report draws some fifty points; why no library does: docs/decisions/2026-11-30-tsne-stays-by-hand.md

Floats = NDArray[np.float64]
MOST = 1000  # points; time and memory grow with their square
_EARLY, _EXAGGERATION = 250, 12.0


def tsne(points: Floats, perplexity: float = 12.0, steps: int = 1000) -> Floats:
    """Coordinates [n, 2] of `points` [n, width]; begins with the principal axes, so no chance.

    `perplexity` is lowered to a third of the other points. Raises ValueError above MOST points.
    """
    count = len(points)
    if count > MOST:
        raise ValueError(f"{count} points are too many for exact t-SNE; at most {MOST}")
    if count < 3:
        return np.pad(np.arange(count, dtype=np.float64)[:, None], ((0, 0), (0, 1)))
    near = affinities(points, min(perplexity, (count - 1) / 3))
    place = _principal(points)
    velocity, gain = np.zeros_like(place), np.ones_like(place)
    rate = max(count / _EXAGGERATION / 4, 50.0)
    for step in range(steps):
        wanted = near * _EXAGGERATION if step < _EARLY else near
        weights = 1 / (1 + _squares(place))
        np.fill_diagonal(weights, 0)
        pull = (wanted - weights / weights.sum()) * weights
        slope = 4 * (pull.sum(axis=1)[:, None] * place - pull @ place)
        same = np.sign(slope) == np.sign(velocity)
        gain = np.maximum(np.where(same, gain * 0.8, gain + 0.2), 0.01)
        velocity = (0.5 if step < _EARLY else 0.8) * velocity - rate * gain * slope
        place = place + velocity
    place -= place.mean(axis=0)
    return place


def affinities(points: Floats, perplexity: float) -> Floats:
    """The joint probabilities p_ij, symmetric, of sum 1; every row's bandwidth by bisection."""
    squares = _squares(points)
    rows = np.zeros_like(squares)
    for i, distances in enumerate(squares):
        others = np.delete(distances, i)
        others = others - others.min()
        low, high = 0.0, np.inf
        beta = 1 / max(float(np.median(others)), 1e-12)
        for _ in range(64):
            weights = np.exp(-beta * others)
            share = weights / weights.sum()
            entropy = float(-np.sum(share * np.log(np.maximum(share, 1e-300))))
            if abs(entropy - np.log(perplexity)) < 1e-5:
                break
            if entropy > np.log(perplexity):
                low, beta = beta, beta * 2 if np.isinf(high) else (beta + high) / 2
            else:
                high, beta = beta, (beta + low) / 2
        rows[i] = np.insert(share, i, 0.0)
    joint: Floats = (rows + rows.T) / (2 * len(points))
    return joint


def _squares(points: Floats) -> Floats:
    """Squared distances, [n, n]."""
    lengths = np.sum(points**2, axis=1)
    squares: Floats = np.maximum(lengths[:, None] + lengths - 2 * points @ points.T, 0)
    np.fill_diagonal(squares, 0)
    return squares


def _principal(points: Floats) -> Floats:
    """The first two principal coordinates, scaled as t-SNE begins; signs are fixed."""
    centred = points - points.mean(axis=0)
    left, values, _ = np.linalg.svd(centred, full_matrices=False)
    found: Floats = np.zeros((len(points), 2))
    width = min(2, len(values))
    found[:, :width] = left[:, :width] * values[:width]
    found *= np.sign(found[np.abs(found).argmax(axis=0), [0, 1]] + 1e-300)
    scale = float(np.std(found[:, 0]))
    return found / scale * 1e-4 if scale > 0 else found
