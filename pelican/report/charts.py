"""Charts as SVG: figures, their tables for export, and where the points lie."""

from __future__ import annotations

import base64
import csv
import io
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from xml.etree import ElementTree

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray

from pelican.evaluation.metrics import Difference, Estimate
from pelican.report.words import signed

# A figure to take along: its numbers as CSV, its drawing as an SVG that needs no page.
#
# The drawings of a page get their colours from the page's style sheet. Programs that set papers know
# neither its variables nor `color-mix`, so what is downloaded has every colour written out, light.

Value = str | int | float | bool | None
_RULE = re.compile(r"^svg ([a-z.\-]+) \{([^}]*)\}", re.M)
_VARIABLE = re.compile(r"--([\w-]+):\s*(#[0-9a-f]{6})")
_MIX = re.compile(r"color-mix\(in srgb,\s*(#[0-9a-f]{6}) (\d+)%,\s*(#[0-9a-f]{6})\)")
_SPACE = "http://www.w3.org/2000/svg"
FONT = "Helvetica, Arial, 'DejaVu Sans', sans-serif"


Row = Sequence[Value]


@dataclass(frozen=True)
class Table:
    """The numbers behind a figure, one observation a row."""

    columns: Sequence[str]
    rows: Sequence[Row]

    def csv(self) -> str:
        """RFC 4180, with a header; an unknown number is an empty field."""
        out = io.StringIO()
        writer = csv.writer(out)
        writer.writerow(self.columns)
        for row in self.rows:
            writer.writerow([_plain(value) for value in row])
        return out.getvalue()


def _plain(value: Value) -> Value:
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@"):
        return "'" + value  # a spreadsheet would compute it
    return value


def data_uri(kind: str, text: str) -> str:
    """A link that holds its target."""
    return f"data:{kind};base64,{base64.b64encode(text.encode()).decode()}"


def standalone(drawing: str, title: str, legend: Sequence[tuple[str, str, str]] = ()) -> str:
    """The drawing as a file of its own. `legend`: (words, style, shape of the key)."""
    ElementTree.register_namespace("", _SPACE)
    root = ElementTree.fromstring(drawing.replace("<svg ", f'<svg xmlns="{_SPACE}" ', 1))
    left, top, width, height = (float(v) for v in root.attrib["viewBox"].split())
    for element in root.iter():
        _write_out(element)
    body = list(root)
    rows = legend_rows([words for words, _, _ in legend], width)
    head, foot = 26.0, 20.0 * len(rows)
    root.attrib = {
        "viewBox": f"{left:g} {top - head:g} {width:g} {height + head + foot + 8:g}",
        "width": f"{width:g}",
        "height": f"{height + head + foot + 8:g}",
        "font-family": FONT,
        "font-size": "12",
    }
    for child in body:
        root.remove(child)
    paper = {"x": f"{left:g}", "y": f"{top - head:g}", "width": "100%", "height": "100%"}
    ElementTree.SubElement(root, f"{{{_SPACE}}}title").text = title
    ElementTree.SubElement(root, f"{{{_SPACE}}}rect", paper | {"fill": "#ffffff"})
    _text(root, left, top - 9, title, {"font-size": "13", "font-weight": "600"})
    root.extend(body)
    keys = iter(legend)
    for row, places in enumerate(rows):
        y = top + height + 16 + 20 * row
        for place in places:
            words, style, shape = next(keys)
            _key(root, left + place, y, _resolve("var(--c)", _own(style)), shape)
            _text(root, left + place + 16, y + 4, words, {})
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, "unicode")


def _write_out(element: ElementTree.Element) -> None:
    """The declarations that the style sheet gives to an element, with colours written out."""
    name = element.tag.rpartition("}")[2]
    classes = set(element.attrib.pop("class", "").split())
    own = _own(element.attrib.pop("style", ""))
    found: dict[str, str] = {}
    for selector, declarations in _rules():
        tag, *wanted = selector.split(".")
        if tag in ("", name) and set(wanted) <= classes and (tag or wanted):
            found |= declarations
    for key, value in found.items():
        element.set(key, _resolve(value, own))


def _own(style: str) -> str:
    """The colour that an element's style attribute sets, with nothing left to look up but names."""
    return style.partition("--c:")[2].partition(";")[0]


def _resolve(value: str, own: str) -> str:
    value = value.replace("var(--c)", own or _colours()["ink"])
    value = re.sub(r"var\(--([\w-]+)\)", lambda m: _colours()[m.group(1)], value)
    return _MIX.sub(_mixed, value)


def _mixed(match: re.Match[str]) -> str:
    first, share, second = match.groups()
    part = int(share) / 100
    pairs = zip(bytes.fromhex(first[1:]), bytes.fromhex(second[1:]), strict=True)
    return "#" + bytes(round(part * a + (1 - part) * b) for a, b in pairs).hex()


@cache
def _rules() -> list[tuple[str, dict[str, str]]]:
    """The rules of `figure.css`, one selector each: (selector below svg, declarations)."""
    found = []
    for selector, body in _RULE.findall(_sheet("figure.css")):
        pairs = [part.partition(":") for part in body.split(";") if ":" in part]
        found.append((selector, {key.strip(): value.strip() for key, _, value in pairs}))
    return found


@cache
def _colours() -> dict[str, str]:
    """The variables of the light page."""
    return dict(_VARIABLE.findall(_sheet("colours.css").partition("@media")[0]))


def _sheet(name: str) -> str:
    return files("pelican.report").joinpath("templates", name).read_text(encoding="utf-8")


def _text(root: ElementTree.Element, x: float, y: float, words: str, more: dict[str, str]) -> None:
    where = {"x": f"{x:g}", "y": f"{y:g}", "fill": _colours()["ink"]}
    ElementTree.SubElement(root, f"{{{_SPACE}}}text", where | more).text = words


def _key(root: ElementTree.Element, x: float, y: float, colour: str, shape: str) -> None:
    if shape in ("dot", "ring"):
        look = {"fill": colour} if shape == "dot" else {"fill": "none", "stroke": colour}
        circle = {"cx": f"{x + 5:g}", "cy": f"{y:g}", "r": "4.5"}
        ElementTree.SubElement(root, f"{{{_SPACE}}}circle", circle | look)
    elif shape in ("line", "dash"):
        line = {"x1": f"{x:g}", "x2": f"{x + 11:g}", "y1": f"{y:g}", "y2": f"{y:g}"}
        line |= {"stroke": colour, "stroke-width": "2"}
        dash = {"stroke-dasharray": "4 3"} if shape == "dash" else {}
        ElementTree.SubElement(root, f"{{{_SPACE}}}line", line | dash)
    else:
        wide = 2.5 if shape == "tick" else 10
        box = {"x": f"{x:g}", "y": f"{y - 5:g}", "width": f"{wide:g}", "height": "10"}
        ElementTree.SubElement(root, f"{{{_SPACE}}}rect", box | {"fill": colour})


# One figure of a page: drawn for a page and for a phone, with its numbers and its downloads.

Draw = Callable[[float], Markup | None]


@dataclass(frozen=True)
class Legend:
    """One entry: its words, its style, and the shape of its key."""

    words: str
    style: str
    shape: str = "square"


@dataclass(frozen=True)
class Figure:
    """A drawing with its title, a line on how to read it, its legend and its numbers."""

    id: str
    title: str
    note: str
    wide: Markup
    narrow: Markup
    table: Table
    legend: Sequence[Legend] = ()

    @property
    def svg(self) -> str:
        """The drawing as a file of its own."""
        keys = [(entry.words, entry.style, entry.shape) for entry in self.legend]
        return standalone(str(self.wide), self.title, keys)

    @property
    def svg_uri(self) -> str:
        return data_uri("image/svg+xml", self.svg)

    @property
    def csv_uri(self) -> str:
        return data_uri("text/csv", self.table.csv())


def make_figure(
    id: str, title: str, note: str, draw: Draw, table: Table, legend: Sequence[Legend] = ()
) -> Figure | None:
    """The figure, or None if there is nothing to draw."""
    wide, narrow = draw(WIDE), draw(NARROW)
    if wide is None or narrow is None:
        return None
    return Figure(id, title, note, wide, narrow, table, legend)


def drawn(made: Iterable[Figure | None]) -> list[Figure]:
    """Those that have data."""
    return [figure for figure in made if figure is not None]


# Small SVG charts as text. Colours are CSS variables, so that a page's theme decides them.

Scale = Callable[[float], float]
WIDE, NARROW = 760.0, 372.0  # of a page, of a phone


def linear(domain: tuple[float, float], pixels: tuple[float, float]) -> Scale:
    """Maps `domain` onto `pixels`; a domain without width maps to the middle."""
    (a, b), (p, q) = domain, pixels
    if b == a:
        return lambda value: (p + q) / 2
    return lambda value: p + (value - a) / (b - a) * (q - p)


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten) within low … high."""
    if high <= low:
        return [low]
    rough = (high - low) / max(1, wanted)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(index * step, 10) for index in range(first, last + 1)]


def span(values: Sequence[float], pad: float = 0.06) -> tuple[float, float]:
    """Smallest and largest finite value with a margin; 0 … 1 of none."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return (0.0, 1.0)
    low, high = min(finite), max(finite)
    margin = (high - low or abs(high) or 1.0) * pad
    return (low - margin, high + margin)


def number(value: float) -> str:
    """A short tick label."""
    return f"{value:g}".replace("-", "\N{MINUS SIGN}")


def _px(value: float) -> str:
    return f"{value:.1f}".rstrip("0").rstrip(".")


@dataclass
class Svg:
    """A drawing of `width` x `height` units; `label` is what a screen reader says."""

    width: float
    height: float
    label: str
    parts: list[str] = field(default_factory=list)

    def line(
        self, x0: float, y0: float, x1: float, y1: float, css: str = "grid", style: str = ""
    ) -> None:
        self.parts.append(
            f'<line x1="{_px(x0)}" y1="{_px(y0)}" x2="{_px(x1)}" y2="{_px(y1)}"{_look(css, style)}/>'
        )

    def text(
        self, x: float, y: float, words: str, css: str = "", anchor: str = "start", style: str = ""
    ) -> None:
        self.parts.append(
            f'<text x="{_px(x)}" y="{_px(y)}" text-anchor="{anchor}"{_look(css, style)}>'
            f"{escape(words)}</text>"
        )

    def circle(
        self, x: float, y: float, r: float, css: str = "", style: str = "", tip: str = ""
    ) -> None:
        self._shape(f'circle cx="{_px(x)}" cy="{_px(y)}" r="{_px(r)}"', css, style, tip)

    def rect(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        css: str = "",
        style: str = "",
        tip: str = "",
        radius: float = 0,
    ) -> None:
        size = f'width="{_px(max(0, width))}" height="{_px(max(0, height))}"'
        corner = f' rx="{_px(radius)}"' if radius else ""
        self._shape(f'rect x="{_px(x)}" y="{_px(y)}" {size}{corner}', css, style, tip)

    def path(
        self, points: Sequence[tuple[float, float]], css: str, style: str = "", close: bool = False
    ) -> None:
        if not points:
            return
        where = "L".join(f"{_px(x)} {_px(y)}" for x, y in points)
        self._shape(f'path d="M{where}{"Z" if close else ""}"', css, style, "")

    def _shape(self, shape: str, css: str, style: str, tip: str) -> None:
        look = _look(css, style)
        if tip:
            self.parts.append(f"<{shape}{look}><title>{escape(tip)}</title></{shape.split()[0]}>")
        else:
            self.parts.append(f"<{shape}{look}/>")

    def markup(self) -> Markup:
        """The drawing; as wide as its container, up to its natural width."""
        return Markup(  # every word in it was escaped
            f'<svg viewBox="0 0 {_px(self.width)} {_px(self.height)}" role="img" '
            f'aria-label="{escape(self.label)}" style="--natural:{_px(self.width)}px">'
            f"{''.join(self.parts)}</svg>"
        )


def _look(css: str, style: str) -> str:
    return (f' class="{css}"' if css else "") + (f' style="{style}"' if style else "")


def colour(name: str) -> str:
    """Style that sets the colour a drawing's classes use."""
    return f"--c:var(--{name})"


def shade(index: int, of: int) -> str:
    """Style of one loop among several: later is darker (lighter on a dark page)."""
    share = 100 if of <= 1 else round(25 + 75 * index / (of - 1))
    return f"--c:color-mix(in srgb,var(--late) {share}%,var(--early))"


def legend_rows(words: Sequence[str], width: float) -> list[list[float]]:
    """Where the entries of a legend begin, row by row, if none may leave `width`."""
    rows: list[list[float]] = []
    x = width
    for entry in words:
        wide = 16 + 6.6 * len(entry) + 20
        if x + wide > width:
            rows.append([])
            x = 0.0
        rows[-1].append(x)
        x += wide
    return rows


def y_grid(
    figure: Svg,
    y: Scale,
    values: Sequence[float],
    left: float,
    right: float,
    words: Callable[[float], str] | None = number,
) -> None:
    """Horizontal lines with their labels to the left; without labels if `words` is None."""
    for value in values:
        figure.line(left, y(value), right, y(value))
        if words is not None:
            figure.text(left - 6, y(value) + 4, words(value), "tick", "end")


# Charts of what went on in a run: distributions, curves over steps, stacked bars.
#
# As in `figures`: plain numbers in, SVG out, None without data, two widths.


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


# The figures of a report. Each takes plain numbers and returns SVG, or None without data.
#
# Every figure can be drawn at two widths: in the narrow one, for a phone, panels stand below each
# other and labels above their rows, so that the text stays readable.


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
# A report draws some fifty points; a library for that would be larger than Pelican's thin install.

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
