"""What a benchmark is: questions read from its published layout, a grade for each, scores of all."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pelican.evaluation.metrics import Suite
from pelican.records import Dimension, Family
from pelican.rewards.dress import last_boxed, undress

# What several multiple-choice benchmarks share.

LETTER_DIRECTLY = "Answer with the option's letter from the given choices directly."


def by_letter(read: Callable[[str], str]) -> Callable[[Question, Reply, Context], Grade]:
    """A grade of 1 if `read` finds the letter of the truth in the reply, else 0."""

    def grade(question: Question, reply: Reply, context: Context) -> Grade:
        letter = read(reply.text)
        return graded_as(letter == question.truth, letter)

    return grade


# Points from a reply, as RoboPoint's and RoboRefer's evaluations read them, and where they lie.

Point = tuple[float, float]
Pixels = NDArray[np.int64]
_SPARE = 100_000  # points of one reply beyond four times the frame's pixels

# One way to match each number: with two, a reply of "(11,11,11, …" would take for ever.
DIGITS = r"\d+(?:\.\d*)?"
_NUMBERS = rf"[-+]?{DIGITS}"
_VECTOR = re.compile(rf"\(({_NUMBERS}(?:,\s*{_NUMBERS})*?)\)")
_PAIR = rf"\s*({DIGITS})\s*,\s*({DIGITS})\s*"
_ROUND, _SQUARE = re.compile(rf"\({_PAIR}\)"), re.compile(rf"\[{_PAIR}\]")


class UnreadablePoints(ValueError):
    """The published code fails at the reply, or it names more points than are scored."""


def pixels_of(text: str, width: int, height: int, *, robopoint: bool) -> Pixels:
    """Pixels (x, y), shape [n, 2], of every "(x, y)" and every box "(x0, y0, x1, y1)".

    Two whole numbers are a pixel; with a decimal point both are shares of the width and height. A
    box stands for all its pixels. RoboPoint takes a box for pixels if its first number is whole, and
    for a slice of the picture, where a number below 0 counts from the end; RoboRefer takes every box
    for shares and leaves it whole. Raises UnreadablePoints.
    """
    limit = 4 * width * height + _SPARE
    found: list[Pixels] = []
    count = 0
    for vector in _VECTOR.findall(text):
        parts = [part.strip() for part in vector.split(",")]
        values = [float(part) for part in parts]
        decimals = ["." in part for part in parts]
        if len(values) == 2:
            x, y = values
            if any(decimals):
                x, y = x * width, y * height
            found.append(np.array([[whole(x), whole(y)]]))
        elif len(values) == 4:
            if robopoint and not decimals[0] and any(decimals):
                raise UnreadablePoints(f"({vector}) is a box of whole numbers and shares")
            scale = (width, height) if decimals[0] or not robopoint else (1, 1)
            x0, y0, x1, y1 = (whole(v * scale[i % 2]) for i, v in enumerate(values))
            if robopoint:
                columns, rows = range(width)[x0:x1], range(height)[y0:y1]
            elif x1 < x0 or y1 < y0:
                raise UnreadablePoints(f"box ({vector}) ends before it begins")
            else:
                columns, rows = range(x0, x1), range(y0, y1)
            count += len(columns) * len(rows)
            if count > limit:
                raise UnreadablePoints(f"over {limit} points")
            grid = np.meshgrid(np.array(columns, np.int64), np.array(rows, np.int64))
            found.append(np.stack([axis.ravel() for axis in grid], axis=1))
    return np.concatenate(found) if found else np.empty((0, 2), np.int64)


def whole(value: float) -> int:
    """The number without its fraction, as far as a pixel may lie."""
    return int(max(-1e9, min(1e9, value)))


def share_inside(points: Pixels, mask: NDArray[np.float64]) -> float:
    """Mean of the mask's values (0 … 1) at the points; outside the frame, and without points, 0."""
    if not len(points):
        return 0.0
    height, width = mask.shape
    x, y = points[:, 0], points[:, 1]
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    return float(mask[y[inside], x[inside]].sum() / len(points))


def first_pair(text: str) -> Point | None:
    """The first "(x, y)", else the first "[x, y]", else the first of a list (RoboSpatial-Home).

    Numbers without a sign and with a digit before the point; others, and numbers in quotes, are
    found only in the first list, if it is Python's own notation.
    """
    found = _ROUND.search(text) or _SQUARE.search(text)
    if found:
        return float(found[1]), float(found[2])
    begin = text.find("[")
    end = text.find("]", begin)
    if begin < 0 or not 0 < end - begin < 2000:
        return None
    try:
        values = ast.literal_eval(f"[{text[begin + 1 : end].strip().removesuffix(',')}]")
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    plain = len(values) == 2 and all(isinstance(v, int | float) for v in values)
    pair = values if plain else values[0] if values else None
    if not isinstance(pair, list | tuple) or len(pair) != 2:
        return None
    try:
        return float(pair[0]), float(pair[1])
    except (TypeError, ValueError, OverflowError):
        return None


def polygon_of(text: str) -> list[Point] | None:
    """A polygon of at least three corners in Python's notation; None if it is none."""
    try:
        value = ast.literal_eval(text)
        corners = [(float(x), float(y)) for x, y in value]
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
    return corners if isinstance(value, list) and len(corners) >= 3 else None


def in_polygon(point: Point, corners: Sequence[Point]) -> bool:
    """Whether a point is in a polygon: a ray to the right crosses its outline an odd number of times."""
    x, y = point
    inside = False
    for (xa, ya), (xb, yb) in zip(corners, [corners[-1], *corners[:-1]], strict=True):
        if (ya > y) != (yb > y) and x < (xb - xa) * (y - ya) / (yb - ya) + xa:
            inside = not inside
    return inside


# The final answer of a completion, and the published rules that read a choice from it.
#
# The rules are those of the harness that each one names, oddities included, so that scores compare.

_ANSWER = re.compile(r"<answer>(.*?)(?:</answer>|\Z)", re.DOTALL)
_LEADING = re.compile(r"[(\s]*([A-Z])", re.IGNORECASE)
_CAPITAL = re.compile(r"[A-Z]")


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer's text; `tagged` if the completion marked it by `<answer>` or `\\boxed`."""

    text: str
    tagged: bool


def final_reply(completion: str) -> Reply:
    """What follows `</think>`; there the first `<answer>`, else the last `\\boxed{}`, else all of it.

    What the marks hold has its dress taken off, as the reward's has. A thought that never ended is
    no answer. Without any of these marks this is the completion to the last space, so a model that
    does not think is scored as the benchmark's own code does.
    """
    rest = completion.rpartition("</think>")[2]
    block = _ANSWER.search(rest)
    if block:
        return Reply(undress(block[1]), tagged=True)
    rest = rest.partition("<think>")[0]
    boxed = last_boxed(rest)
    if boxed is not None:
        return Reply(undress(boxed), tagged=True)
    return Reply(rest if rest == completion else rest.strip(), tagged=False)


def first_word(text: str) -> str:
    """The reply up to its first space, without dots at the end (VSI-Bench)."""
    return text.split(" ")[0].rstrip(".").strip()


def leading_letter(text: str) -> str:
    """The first character after spaces and brackets, if it is a letter; "" if not.

    Any letter: "The answer is B" gives T (lmms-eval, tasks blink and embspatial).
    """
    found = _LEADING.match(text.strip())
    return found[1].upper() if found else ""


def first_capital(text: str) -> str:
    """The first capital letter, wherever it stands (Cosmos-Reason1)."""
    found = _CAPITAL.search(text)
    return found[0] if found else ""


def listed_letter(text: str, options: Sequence[str]) -> str:
    """A letter as "(B)", "B " or "B."; else, in a text of over five words, an option's own text.

    Of several the one whose last mention stands first. This is MMMU's parser as lmms-eval uses it
    for EgoSchema, but where that draws a letter at random this gives "".
    """
    for mark in ",.!?;:'":
        text = text.strip(mark)
    text = f" {text} "
    letters = [chr(ord("A") + i) for i in range(len(options))]
    places = [
        (place, letter)
        for form in ("({})", "{} ", "{}.")
        for letter in letters
        if (place := text.rfind(form.format(letter))) >= 0
    ]
    if not places and len(text.split()) > 5:
        lower = text.lower()
        places = [
            (place, letter)
            for letter, option in zip(letters, options, strict=True)
            if (place := lower.rfind(option.strip().lower())) >= 0
        ]
    return min(places, key=lambda found: found[0])[1] if places else ""


# What a benchmark is: questions read from its published layout, a grade for each, scores of all.

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Picture:
    """One encoded image: its bytes, or a file below the benchmark's folder."""

    data: bytes | None = None
    path: str = ""


@dataclass(frozen=True, slots=True)
class Clip:
    """A video file below the benchmark's folder, or a folder of its frames at `fps`.

    `start_s` and `end_s` bound the part that is asked about.
    """

    path: str
    start_s: float = 0.0
    end_s: float | None = None
    fps: float | None = None


Media = tuple[Picture, ...] | Clip


@dataclass(frozen=True, slots=True)
class Question:
    """One question. `truth` is the reference in the benchmark's own form (letter, number, polygon).

    `group` is what the published table breaks down by; `scene` keeps questions together that
    succeed and fail together; `mask` is where points must lie.
    """

    id: str
    prompt: str
    media: Media
    truth: str
    group: str
    scene: str = ""
    options: tuple[str, ...] = ()
    mask: Picture | None = None
    chance: float = 0.0


@dataclass(frozen=True, slots=True)
class Grade:
    """`value` in [0, 1], the answer as it was read, and why the value is 0 ("" if it is not)."""

    value: float
    answer: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Graded:
    """One graded question, all that the published scores are computed from."""

    group: str
    value: float


class Ask(Protocol):
    """One reply of a judge model to a prompt; replies are kept, so the same prompt is asked once."""

    def __call__(self, prompt: str, max_tokens: int) -> str: ...


@dataclass(frozen=True)
class Context:
    """What grading may need besides the reply: the folder with masks, and a judge model."""

    folder: Path
    ask: Ask | None = None


@dataclass(frozen=True)
class Benchmark:
    """One benchmark as published.

    rows: the folder's rows with the file that they stand in; raises UserInputError if the layout is
    another. question: one row; raises RowError if it can't be used, gives None if it is not to be
    scored (an answer that is not public). grade: by the published rule. scores: points of 100,
    `overall` first.
    """

    name: str
    title: str
    suite: Suite
    family: Family
    dimension: Dimension
    source: str
    layout: str
    metric: str
    rows: Callable[[Path], Iterable[tuple[str, Row]]]
    question: Callable[[Row, Path], Question | None]
    grade: Callable[[Question, Reply, Context], Grade]
    scores: Callable[[Sequence[Graded]], dict[str, float]]
    frames: int = 32
    needs_judge: bool = False


def means(graded: Sequence[Graded]) -> dict[str, float]:
    """Points of 100 per group, sorted by name."""
    groups: dict[str, list[float]] = {}
    for one in graded:
        groups.setdefault(one.group, []).append(one.value)
    return {name: 100 * sum(v) / len(v) for name, v in sorted(groups.items())}


def over_questions(graded: Sequence[Graded]) -> dict[str, float]:
    """Overall: the mean over the questions."""
    overall = 100 * sum(one.value for one in graded) / len(graded)
    return {"overall": overall, **means(graded)}


def over_groups(graded: Sequence[Graded]) -> dict[str, float]:
    """Overall: the mean over the groups' means."""
    groups = means(graded)
    return {"overall": _mean(groups), **groups}


def _mean(values: Mapping[str, float]) -> float:
    return sum(values.values()) / len(values)


def graded_as(right: bool, answer: str) -> Grade:
    """A grade of 1 or 0; its reason is "no answer" where the answer is empty."""
    return Grade(float(right), answer, "" if right else "wrong" if answer else "no answer")
