"""Replies by chance out of the pieces that a rule may stumble over; the same for the same seed."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator

OPTIONS = ("A. peels", "B. washes", "C. cuts it", "D. eats", "E. rests")
SQUARE = "[(0.2, 0.2), (0.6, 0.2), (0.6, 0.6), (0.2, 0.6)]"
SIDES = (20, 10)  # of the masks: width, height

_MARKS = list(".,!?;:'\"-/[](){}=+\\_>@`*#&|^~…、。：（）½")
_SPACES = [" ", " ", "  ", "\n", "\n\n", "\t", "\r\n", "\u00a0", "\u3000"]
_LETTERS = [
    *"ABCDEFabcdefIZéÉßſıİK",
    "(A)", "(B)", "(C)", "(D)", "A.", "B.", "C.", "D.", "A)", "B)", "a.", "b)", "A:", "B:", "C: 5",
    "**A**", "**B", "C**", "[A]", "{B}", "<C", "D>", "A,B", "A/B", "A-B", "AB", "BA", "CD.", "A\u0307",
]  # fmt: skip
_WORDS = [
    "answer", "Answer", "ANSWER", "Answer:", "answer: ", "Answer : ", "Answer:B", "answer is",
    "the answer is ", "The answer is ", "the answer is", "option ", "Option", "OPTION", "option B",
    "correct", "Correct", "incorrect", "the correct option is", "a", "A cup", "I see", "It is",
    "because", "Because", "Dad", "cab", "yes", "Yes", "no", "No", "not", "nobody", "left", "peels",
    "washes", "Washes the dishes", "cuts it", "eats", "rests", "in the middle of the table", "中", "答案是B",
]  # fmt: skip
_NUMBERS = [
    "1", "2", "3", "3.", "3.0", "2.4", "2.7", "3.3", "1.5", "4.5", "-3", "+3", ".3", "30e-1", "3e0",
    "1_0", "nan", "inf", "-inf", "infinity", "1,2", "1,200", "3m", "3 meters", "300 cm", "about 3", "٣",
    "0", "0.0", "1e400", "three", "3..", "3/1", "½",
]  # fmt: skip


def letters(draw: random.Random) -> str:
    """A reply to a question of several choices."""
    return _joined(draw, [_LETTERS, _LETTERS, _WORDS, _WORDS, _MARKS, _SPACES, _NUMBERS])


def numbers(draw: random.Random) -> str:
    return _joined(draw, [_NUMBERS, _NUMBERS, _NUMBERS, _WORDS, _MARKS, _SPACES])


def places(draw: random.Random) -> str:
    """Tuples, boxes and what looks like them."""
    return _joined(draw, [[_tuple(draw) for _ in range(4)], _WORDS, _MARKS, _SPACES])


def _joined(draw: random.Random, kinds: list[list[str]]) -> str:
    pieces = [
        draw.choice(draw.choice(kinds)) for _ in range(draw.choice((1, 1, 1, 2, 2, 3, 4, 6, 9)))
    ]
    return draw.choice(("", "", " ", " ", "\n", ", ")).join(pieces)


def _tuple(draw: random.Random) -> str:
    left, right = draw.choice(("()", "()", "()", "()", "[]", "[]", "([", "  "))
    if left == "(" and right == "[":
        left, right = draw.choice((("[(", ")]"), ("[[", "]]"), ("((", "))"), ("([", "])")))
    count = draw.choice((2, 2, 2, 2, 2, 4, 4, 1, 3, 5))
    whole = draw.random() < 0.4
    most = 3 if count == 4 else 21  # RoboRefer's boxes are shares: 3 is three times the frame
    values = [
        _coordinate(draw, whole if draw.random() < 0.9 else not whole, most) for _ in range(count)
    ]
    if count == 4 and draw.random() < 0.7:  # mostly boxes that have an area
        values = [*sorted(values[::2]), *sorted(values[1::2])]
        values = [values[0], values[2], values[1], values[3]]
    comma = draw.choice((", ", ", ", ",", " , ", ",\n", "; "))
    inside = draw.choice(("", "", "", "", " "))
    return f"{left}{inside}{comma.join(values)}{draw.choice(('', '', '', ',', inside))}{right}"


def _coordinate(draw: random.Random, whole: bool, most: int) -> str:
    sign = draw.choice(("", "", "", "", "", "", "-", "+"))
    if whole:
        large = () if most < 21 else ("007", "400", "99999")
        return sign + draw.choice((*(str(draw.randint(0, most)),) * 5, *large))
    share = (f"{draw.random():.2f}",) * 4 + (
        f"{draw.random() * 2:.3f}",
        "1.0",
        "1.",
        ".5",
        "0.",
        "9e-1",
    )
    return sign + draw.choice(share)


def molmo(draw: random.Random) -> str:
    """Molmo's `<points …>`, some of them broken."""
    pairs = range(1, draw.choice((1, 1, 2, 3, 9)) + 1)
    gap = draw.choice((" ", " ", " ", "  ", "\n", ""))
    quote = draw.choice(('"', '"', '"', '"', '"', "'"))
    inside = gap.join(
        f"x{i}={quote}{_percent(draw)}{quote}{gap}y{i}={quote}{_percent(draw)}{quote}"
        for i in pairs
    )
    label = draw.choice(("disc", "two discs", "the disc (left)", ""))
    text = f'<points {inside} alt="{label}">{label}</points>'
    return (
        draw.choice(("", "Here: ", "There are 2. "))
        + text[: draw.choice((len(text), len(text), 30))]
    )


def _percent(draw: random.Random) -> str:
    return draw.choice(
        (f"{draw.random() * 100:.1f}",) * 4 + (f"{draw.randint(0, 110)}", "-3.5", "100.0", "5.")
    )


def gemini(draw: random.Random) -> str:
    """Gemini's JSON in a fence, some items without a point."""
    items = [_item(draw) for _ in range(draw.choice((0, 1, 1, 1, 2, 3, 8)))]
    body = json.dumps(items, indent=draw.choice((None, None, 1)))
    return draw.choice(("", "", "Sure.\n")) + f"```{draw.choice(('json', 'json', ''))}\n{body}\n```"


def _item(draw: random.Random) -> dict[str, object]:
    y, x = (
        draw.choice((draw.randint(0, 1000), draw.randint(-9, 1100), round(draw.random() * 1000, 1)))
        for _ in "yx"
    )
    item: dict[str, object] = {
        "point": draw.choice(([y, x],) * 8 + ([y, x, 1], [], [y], {"y": y}, None))
    }
    if draw.random() < 0.1:
        item = {"box_2d": [y, x, y + 9, x + 9]}
    return item | draw.choice(({}, {"label": "disc"}, {"label": "disc (2)"}))


def verdicts(draw: random.Random) -> str:
    """What a judge may say of an answer."""
    mark = draw.choice(
        ("1", "2", "3", "4", "5", "0", "6", "-1", "+3", "four", "4.5", "", "10", "03")
    )
    after = draw.choice(("", "", "", " ", "\n", "\nIt fits.", " of 5"))
    return (
        draw.choice(("", "", "Your mark: ", "Your mark:", "Good. Your mark: ", "My mark: "))
        + mark
        + after
    )


def replies(make: Callable[[random.Random], str], count: int, seed: int) -> Iterator[str]:
    """`count` replies without any mark that Pelican would cut the answer out by."""
    draw = random.Random(f"{make.__name__}/{seed}")
    made = 0
    while made < count:
        reply = make(draw)
        if not any(mark in reply for mark in ("answer>", "think>", "\\boxed")):
            made += 1
            yield reply
