"""Charts of what went on in a run: distributions, curves over steps, stacked bars.

As in `figures`: plain numbers in, SVG out, None without data, two widths.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from pelican.evaluation.metrics import Difference
from pelican.report.svg import WIDE, Svg, linear, number, shade, span, ticks, y_grid
from pelican.report.words import signed


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
