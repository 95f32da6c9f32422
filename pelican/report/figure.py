"""One figure of a page: drawn for a page and for a phone, with its numbers and its downloads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from pelican.report.export import Table, data_uri, standalone
from pelican.report.svg import NARROW, WIDE

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
