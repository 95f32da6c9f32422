"""Small SVG drawings as text: scales, ticks, shapes, colours.

Colours are CSS variables, so that a page's theme decides them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup
from markupsafe import escape as _escape

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


_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def printable(words: str) -> str:
    """A text whose characters XML allows: of control characters it has none."""
    return _NO_XML.sub("\ufffd", words)


def escape(words: str) -> Markup:
    return _escape(printable(words))


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
        """A rectangle from its upper left corner (x, y); `css` names its class, `tip` is
        its tooltip.
        """
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
