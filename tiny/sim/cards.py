"""General questions, nothing of robots: drawn cards of shapes, digits and letters."""

import io
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from tiny.sim.guesses import chance_of
from tiny.sim.records import QA, SIZE
from tiny.sim.world import RGB

SHAPES = ("circle", "square", "triangle", "star", "ring", "cross")
INKS = {**RGB, "grey": (0.5, 0.5, 0.5)}
COLOURS = ("red", "green", "blue", "yellow", "purple", "orange", "black")
LETTERS = "ABCDEFGHKLMNPRSTXYZ"
SYMBOLS = (*SHAPES, *"0123456789", *LETTERS, "+", "-")


@dataclass(frozen=True)
class Mark:
    """A shape or character on a card: centre and size in hundredths of the picture's side."""

    symbol: str
    colour: str
    centre: tuple[int, int]
    size: int


@lru_cache(maxsize=8)
def _font(size: int) -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(size)


def card(seed: int) -> tuple[bytes, list[QA]]:
    """A picture as JPEG and its one or two questions; the same for the same seed."""
    picture, qas, _ = marked_card(seed)
    return picture, qas


def marked_card(seed: int) -> tuple[bytes, list[QA], list[Mark]]:
    """`card`, with what is drawn where."""
    from PIL import Image, ImageDraw

    rng = np.random.default_rng(np.random.SeedSequence([seed, 77]))
    back = rng.uniform(0.78, 1.0) * np.array([1.0, rng.uniform(0.93, 1), rng.uniform(0.88, 1)])
    image = Image.new("RGB", (SIZE * 2, SIZE * 2), tuple(int(v * 255) for v in back))
    draw = ImageDraw.Draw(image)
    kind = ("shapes", "shapes", "count", "digit", "letters", "sum")[int(rng.integers(6))]
    marks: list[Mark] = []
    qas = _MAKERS[kind](draw, rng, marks)
    buffer = io.BytesIO()
    image = image.resize((SIZE, SIZE), Image.Resampling.BOX)
    image.save(buffer, "JPEG", quality=90, subsampling=0, optimize=False)
    return buffer.getvalue(), qas, marks


def _mark(symbol: str, colour: str, x: float, y: float, size: float) -> Mark:
    return Mark(symbol, colour, (int(x / 2.24), int(y / 2.24)), int(size / 2.24))


def _qa(dimension: str, template: str, question: str, gold: str, think: str) -> QA:
    count = template in ("card_count", "card_sum")
    answer = {"kind": "count", "value": int(gold)} if count else {"kind": "text", "value": gold}
    return QA(
        "general", dimension, template, question, answer, gold, think, chance_of(template), True
    )


def _ink(colour: str) -> tuple[int, int, int]:
    r, g, b = (int(v * 255) for v in INKS[colour])
    return r, g, b


def _shape(draw: Any, shape: str, x: float, y: float, r: float, colour: str) -> None:
    ink = _ink(colour)
    box = [x - r, y - r, x + r, y + r]
    if shape == "circle":
        draw.ellipse(box, fill=ink)
    elif shape == "square":
        draw.rectangle([x - 0.85 * r, y - 0.85 * r, x + 0.85 * r, y + 0.85 * r], fill=ink)
    elif shape == "triangle":
        draw.polygon([(x, y - r), (x + r, y + 0.8 * r), (x - r, y + 0.8 * r)], fill=ink)
    elif shape == "ring":
        draw.ellipse(box, outline=ink, width=int(r * 0.4))
    elif shape == "cross":
        draw.rectangle([x - r, y - 0.3 * r, x + r, y + 0.3 * r], fill=ink)
        draw.rectangle([x - 0.3 * r, y - r, x + 0.3 * r, y + r], fill=ink)
    else:
        points = []
        for i in range(10):
            a, q = math.pi * (i / 5 - 0.5), r if i % 2 == 0 else 0.45 * r
            points.append((x + q * math.cos(a), y + q * math.sin(a)))
        draw.polygon(points, fill=ink)


def _write(draw: Any, text: str, x: float, y: float, size: int, colour: str) -> None:
    draw.text((x, y), text, fill=_ink(colour), font=_font(size), anchor="mm")


def _grid(rng: np.random.Generator, count: int) -> list[tuple[float, float]]:
    cells = rng.permutation(9)[:count]
    return [
        (40 + 72 * (int(c) % 3) + rng.uniform(-8, 8), 40 + 72 * (int(c) // 3) + rng.uniform(-8, 8))
        for c in cells
    ]


def _shapes(draw: Any, rng: np.random.Generator, marks: list[Mark]) -> list[QA]:
    count = int(rng.integers(2, 5))
    shapes = [SHAPES[int(i)] for i in rng.permutation(len(SHAPES))[:count]]
    colours = [COLOURS[int(i)] for i in rng.permutation(len(COLOURS))[:count]]
    spots = _grid(rng, count)
    for s, c, (x, y) in zip(shapes, colours, spots, strict=True):
        radius = rng.uniform(22, 30)
        _shape(draw, s, x, y, radius, c)
        marks.append(_mark(s, c, x, y, 2 * radius))
    i = int(rng.integers(count))
    at = f"({int(spots[i][0] / 2.24)}, {int(spots[i][1] / 2.24)})"
    think = f"the {shapes[i]} is at {at}. it is {colours[i]}."
    ask = ("what is the colour of the {}?", "which colour does the {} have?")[int(rng.integers(2))]
    out = [_qa("perception_grounding", "card_colour", ask.format(shapes[i]), colours[i], think)]
    j = int(rng.integers(count))
    at = f"({int(spots[j][0] / 2.24)}, {int(spots[j][1] / 2.24)})"
    think = f"{colours[j]} is at {at}. it is a {shapes[j]}."
    ask = ("which shape is {}?", "what is the {} shape?")[int(rng.integers(2))]
    out.append(_qa("perception_grounding", "card_shape", ask.format(colours[j]), shapes[j], think))
    left = min(range(count), key=lambda k: spots[k][0])
    gap = sorted(p[0] for p in spots)
    if gap[1] - gap[0] > 25:
        think = f"the {shapes[left]} is furthest left, at x {int(gap[0] / 2.24)}."
        ask = "which shape is furthest left?"
        out.append(_qa("spatial_geometric", "card_left", ask, shapes[left], think))
    return out


def _count(draw: Any, rng: np.random.Generator, marks: list[Mark]) -> list[QA]:
    a, b = (SHAPES[int(i)] for i in rng.permutation(len(SHAPES))[:2])
    n, other = int(rng.integers(1, 6)), int(rng.integers(0, 4))
    colours = [COLOURS[int(i)] for i in rng.integers(len(COLOURS), size=n + other)]
    spots = _grid(rng, n + other)
    for i, (x, y) in enumerate(spots):
        _shape(draw, a if i < n else b, x, y, 24, colours[i])
        marks.append(_mark(a if i < n else b, colours[i], x, y, 48))
    xs = ", ".join(f"({int(x / 2.24)}, {int(y / 2.24)})" for x, y in sorted(spots[:n]))
    plural = {"cross": "crosses"}.get(a, a + "s")
    ask = ("how many {} are there?", "count the {}.")[int(rng.integers(2))]
    return [
        _qa(
            "quantitative_numerical",
            "card_count",
            ask.format(plural),
            str(n),
            f"{plural} at {xs}.",
        )
    ]


def _digit(draw: Any, rng: np.random.Generator, marks: list[Mark]) -> list[QA]:
    d, colour = str(int(rng.integers(10))), COLOURS[int(rng.integers(len(COLOURS)))]
    x, y = rng.uniform(70, 154), rng.uniform(70, 154)
    size = int(rng.integers(90, 140))
    _write(draw, d, x, y, size, colour)
    marks.append(_mark(d, colour, x, y, size))
    ask = ("what digit is shown?", "which digit do you see?")[int(rng.integers(2))]
    think = f"a {colour} digit at ({int(x / 2.24)}, {int(y / 2.24)})."
    return [_qa("perception_grounding", "card_digit", ask, d, think)]


def _letters(draw: Any, rng: np.random.Generator, marks: list[Mark]) -> list[QA]:
    a, b = (LETTERS[int(i)] for i in rng.permutation(len(LETTERS))[:2])
    inks = [COLOURS[int(i)] for i in rng.permutation(len(COLOURS))[:2]]
    for letter, ink, middle in ((a, inks[0], 60), (b, inks[1], 164)):
        x, y = middle + rng.uniform(-8, 8), rng.uniform(80, 144)
        _write(draw, letter, x, y, 90, ink)
        marks.append(_mark(letter, ink, x, y, 90))
    side = int(rng.integers(2))
    word, gold = (("left", a), ("right", b))[side]
    ask = ("which letter is on the {}?", "what letter is {}?")[int(rng.integers(2))]
    think = f"the {word} letter is {inks[side]}."
    return [_qa("spatial_geometric", "card_letter", ask.format(word), gold.lower(), think)]


def _sum(draw: Any, rng: np.random.Generator, marks: list[Mark]) -> list[QA]:
    a, b = int(rng.integers(0, 10)), int(rng.integers(0, 10))
    minus = bool(rng.random() < 0.4) and a >= b
    sign = "-" if minus else "+"
    text, y, ink = f"{a} {sign} {b}", 112 + rng.uniform(-30, 30), COLOURS[int(rng.integers(7))]
    _write(draw, text, 112, y, 68, ink)
    width = draw.textlength(text, font=_font(68))
    edge = draw.textlength(str(a), font=_font(68)) / 2
    for symbol, x in (
        (str(a), 112 - width / 2 + edge),
        (sign, 112),
        (str(b), 112 + width / 2 - edge),
    ):
        marks.append(_mark(symbol, ink, x, y, 68))
    gold = str(a - b if minus else a + b)
    ask = ("what is the result?", "how much is it?")[int(rng.integers(2))]
    return [_qa("decision_planning", "card_sum", ask, gold, f"{a} {sign} {b} = {gold}.")]


_MAKERS = {
    "shapes": _shapes,
    "count": _count,
    "digit": _digit,
    "letters": _letters,
    "sum": _sum,
}
