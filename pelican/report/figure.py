"""A figure of a page: its drawing for a page and for a phone, its numbers as CSV, its SVG as a file."""

from __future__ import annotations

import base64
import csv
import io
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from xml.etree import ElementTree

from markupsafe import Markup

from pelican.base.cells import no_formula
from pelican.report.svg import NARROW, WIDE, legend_rows, printable

Draw = Callable[[float], Markup | None]
Value = str | int | float | bool | None
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
    return no_formula(value) if isinstance(value, str) else value


def data_uri(kind: str, text: str) -> str:
    """A link that holds its target."""
    return f"data:{kind};base64,{base64.b64encode(text.encode()).decode()}"


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


def drop_empty(made: Iterable[Figure | None]) -> list[Figure]:
    """The figures that had something to draw."""
    return [figure for figure in made if figure is not None]


# A drawing as a file of its own: an SVG that needs no page.
#
# The drawings of a page get their colours from the page's style sheet. Programs that set papers know
# neither its variables nor `color-mix`, so what is downloaded has every colour written out, light.

_RULE = re.compile(r"^svg ([a-z.\-]+) \{([^}]*)\}", re.M)
_VARIABLE = re.compile(r"--([\w-]+):\s*(#[0-9a-f]{6})")
_MIX = re.compile(r"color-mix\(in srgb,\s*(#[0-9a-f]{6}) (\d+)%,\s*(#[0-9a-f]{6})\)")
_SPACE = "http://www.w3.org/2000/svg"
FONT = "Helvetica, Arial, 'DejaVu Sans', sans-serif"


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
    ElementTree.SubElement(root, f"{{{_SPACE}}}title").text = printable(title)
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
    return _MIX.sub(_mix_colours, value)


def _mix_colours(match: re.Match[str]) -> str:
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
    ElementTree.SubElement(root, f"{{{_SPACE}}}text", where | more).text = printable(words)


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
