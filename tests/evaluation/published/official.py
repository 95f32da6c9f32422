"""The rules of the benchmarks' own code, stated anew from reading it, for replies as they come.

Each takes a reply and the truth and gives the value that the published code gives: None where it
fails at the reply, leaves it out or draws lots. The commits are in docs/published-benchmarks.md.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Value = float | None
Mask = NDArray[np.float64]


def erqa(reply: str, truth: str) -> Value:
    """Equal but for full stops, case and the spaces around."""
    return float(reply.replace(".", "").strip().lower() == truth.strip().lower())


# VSI-Bench: the first word.


def _word(reply: str) -> str:
    word, _, _ = reply.partition(" ")
    while word.endswith("."):
        word = word[:-1]
    return word.strip()


def vsibench_choice(reply: str, truth: str) -> Value:
    return float(_word(reply).lower() == truth.lower())


def vsibench_number(reply: str, truth: str) -> Value:
    try:
        said = float(_word(reply))
    except ValueError:
        return 0.0
    limits = [1 - threshold for threshold in np.linspace(0.5, 0.95, 10)]
    error = abs(said - float(truth)) / float(truth)
    return sum(bool(error <= limit) for limit in limits) / 10


# MMMU's parser as EgoSchema's task in lmms-eval has it.


def egoschema(reply: str, truth: str, options: tuple[str, ...]) -> Value:
    for mark in (",", ".", "!", "?", ";", ":", "'"):
        reply = reply.strip(mark)
    reply = f" {reply} "
    letters = "ABCDE"[: len(options)]
    named = [f"({x})" for x in letters] + [f"{x} " for x in letters] + [f"{x}." for x in letters]
    places = [(reply.rindex(form), form.strip("(). ")) for form in named if form in reply]
    if not places and len(reply.split()) > 5:
        low = reply.lower()
        for letter, option in zip(letters, options, strict=True):
            if option.strip().lower() in low:
                places.append((low.rindex(option.strip().lower()), letter))
    if not places:
        return None  # a letter is drawn at random
    first = min(place for place, _ in places)
    return float(next(letter for place, letter in places if place == first) == truth)


# MVBench's task in lmms-eval.

_TOUCHED = (";", "/", "[", "]", '"', "{", "}", "(", ")", "=", "+", "\\", "_", "-", ">", "<", "@", "`", ",", "?", "!")  # fmt: skip


def mvbench(reply: str, truth: str) -> Value:
    if reply == "":
        return None  # not among the answered
    return float(_mvbench_form(reply) == _mvbench_form(truth))


def _mvbench_form(text: str) -> str:
    lettered = re.match(r"([a-eA-E])\.\s*([^\n]+)\Z", text.strip())
    if lettered:
        return lettered[1].upper()
    text = text.replace("\n", " ").replace("\t", " ").strip()
    grouped = re.search(r"\d,\d", text)
    bare = text
    for mark in _TOUCHED:
        touches = f"{mark} " in text or f" {mark}" in text
        bare = bare.replace(mark, "" if touches or grouped else " ")
    # The flag for Unicode is given in the place of the count, so at most 32 full stops go.
    bare = re.sub(r"\.(?!\d)", "", bare, count=32)
    for mark in ("'", '"', ")", "("):
        bare = bare.strip(mark)
    bare = bare.strip().lower()
    alone = re.search(r"\b[a-e]\b", bare)
    return alone[0].upper() if alone else bare


# PhyX: by rules alone ("STR"), or with a judge's verdict on what rules leave open ("LLM").


def _phyx_letter(reply: str) -> str | None:
    said = re.search(r"\b(?:correct|Correct|answer|Answer|option|Option)\b(?:.|\n)*?([A-D])", reply)
    if said:
        return said[1]
    labels = re.findall("([A-D]):", reply)
    return labels[-1] if labels else None


def phyx_by_rules(reply: str, truth: str) -> Value:
    reply = reply.strip()
    marked = any(form in reply for form in (f"{truth}:", f"{truth}**", f"**{truth}"))
    return float(_phyx_letter(reply) == truth or marked)


def phyx_judged(reply: str, truth: str, verdict: str) -> Value:
    found = _phyx_letter(reply.strip()) or reply
    if found.strip().lower() == truth.strip().lower():
        return 1.0
    return 0.0 if found.strip() in ("A", "B", "C", "D") else float("1" in verdict)


def omnispatial(reply: str, truth: str) -> Value:
    """The last "Answer: X"; A if there is none."""
    letter = "A"
    for stated in re.finditer(r"answer\s*:\s*([a-d])\b", reply, re.IGNORECASE):
        letter = stated[1]
    return float(letter == truth)


def leading(reply: str, truth: str) -> Value:
    """BLINK and EmbSpatial-Bench in lmms-eval: a letter at the start, after brackets and spaces."""
    found = re.match(r"[\s(]*([A-Z])", reply.strip(), re.IGNORECASE)
    return float(found is not None and found[1].upper() == truth)


def cosmos(reply: str, truth: str) -> Value:
    """The first capital letter."""
    letter = next((c for c in reply if "A" <= c <= "Z"), "")
    return float(letter.lower() == truth.lower())


def mmstar(reply: str, truth: str) -> Value:
    low, letter = reply.lower().strip().replace("\n", " "), truth.lower()
    for lead in ("", "(", "option ", "the answer is "):
        if low.startswith(lead + letter):
            return 1.0
    return 0.0


# Points: RoboPoint's and RoboRefer's scripts.

_TUPLE = re.compile(r"\(([-+]?\d+\.?\d*(?:,\s*[-+]?\d+\.?\d*)*?)\)")


def _tuples(reply: str) -> list[list[float]]:
    return [
        [float(part) if "." in part else int(part) for part in found.split(",")]
        for found in _TUPLE.findall(reply)
    ]


def _mean(points: list[tuple[int, int]], mask: Mask) -> float:
    if not points:
        return 0.0
    height, width = mask.shape
    x, y = np.array(points, dtype=np.int64).T
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    return float(mask[y[inside], x[inside]].sum() / len(points))


def _pair(values: list[float], mask: Mask) -> tuple[int, int]:
    """A pixel; if one of the two has a decimal point, both are shares."""
    height, width = mask.shape
    x, y = values
    if isinstance(x, float) or isinstance(y, float):
        x, y = x * width, y * height
    return int(x), int(y)


def where2place(reply: str, mask: Mask) -> Value:
    """Shares are of the mask's size here; the script takes 640 x 480, which the masks have."""
    height, width = mask.shape
    points: list[tuple[int, int]] = []
    for values in _tuples(reply):
        if len(values) == 2:
            points.append(_pair(values, mask))
        elif len(values) == 4:
            if isinstance(values[0], float):
                values = [int(v * (width, height)[i % 2]) for i, v in enumerate(values)]
            marked: Any = np.zeros((height, width), bool)
            x0, y0, x1, y1 = values
            try:
                marked[y0:y1, x0:x1] = True  # type: ignore[misc]
            except TypeError:
                return None  # a slice from a whole number to a share
            points += [(int(x), int(y)) for y, x in zip(*np.nonzero(marked), strict=True)]
    return _mean(points, mask)


def refspatial(reply: str, mask: Mask) -> Value:
    """As for RoboPoint, RoboRefer, Claude and GPT-4o: shares and whole pixels."""
    height, width = mask.shape
    points: list[tuple[int, int]] = []
    for values in _tuples(reply):
        if len(values) == 2:
            points.append(_pair(values, mask))
        elif len(values) == 4:
            x0, y0, x1, y1 = (int(v * (width, height)[i % 2]) for i, v in enumerate(values))
            if x1 < x0 or y1 < y0:
                return None  # an array of a negative size
            points += [(x, y) for y in range(y0, y1) for x in range(x0, x1)]
    return _mean(points, mask)


def refspatial_molmo(reply: str, mask: Mask) -> Value:
    height, width = mask.shape
    pairs = re.findall(r'x\d+="(-?\d+\.?\d*)"\s+y\d+="(-?\d+\.?\d*)"', reply)
    return _mean(
        [(int(float(x) / 100 * width), int(float(y) / 100 * height)) for x, y in pairs], mask
    )


def refspatial_gemini(reply: str, mask: Mask) -> Value:
    """JSON in a fence: `point` is y, x in thousandths."""
    height, width = mask.shape
    fenced = re.search(r"```\w*\n(.*?)```", reply, re.DOTALL)
    try:
        items = json.loads(fenced[1].strip()) if fenced else []
    except ValueError:
        return 0.0
    points = []
    try:
        for item in items:
            if "point" in item and isinstance(item["point"], list) and len(item["point"]) == 2:
                y, x = item["point"]
                points.append((int(x / 1000 * width), int(y / 1000 * height)))
    except (TypeError, OverflowError):
        return None
    return _mean(points, mask)


# RoboSpatial-Home.


def robospatial(reply: str, truth: str) -> Value:
    if truth.lower() in ("yes", "no"):
        return float(reply.strip().lower().startswith(truth.lower()))
    place = _robospatial_point(reply)
    return float(place is not None and _inside(place, ast.literal_eval(truth)))


def _robospatial_point(reply: str) -> tuple[float, float] | None:
    for left, right in (r"\(", r"\)"), (r"\[", r"\]"):
        found = re.search(rf"{left}\s*(\d+\.?\d*)\s*,\s*(\d+\.?\d*)\s*{right}", reply)
        if found:
            return float(found[1]), float(found[2])
    listed = re.search(r"\[(.*?)\]", reply, re.DOTALL)
    if listed is None:
        return None
    content = listed[1].strip()
    try:
        values = ast.literal_eval(f"[{content[:-1] if content.endswith(',') else content}]")
        if len(values) == 2 and all(isinstance(v, int | float) for v in values):
            return float(values[0]), float(values[1])
        x, y = values[0]
        return (float(x), float(y)) if isinstance(values[0], list | tuple) else None
    except Exception:  # whatever the reply brings about, the script takes it for no answer
        return None


def _inside(place: tuple[float, float], corners: list[tuple[float, float]]) -> bool:
    x, y = place
    crossed = 0
    for i, (xi, yi) in enumerate(corners):
        xj, yj = corners[i - 1]
        crossed += (yi > y) != (yj > y) and x < (xj - xi) * (y - yi) / (yj - yi) + xi
    return crossed % 2 == 1


# OpenEQA: what the judge is shown of a reply, and the mark in what it says.


def openeqa_shown(reply: str) -> str:
    """All up to the last full stop, if there is one."""
    return reply[: reply.rindex(".") + 1] if "." in reply else reply


def openeqa_value(verdict: str) -> Value:
    mark: int | None = None
    try:
        if verdict.isdigit():
            mark = int(verdict)
        elif "Your mark:" in verdict:
            line = verdict[verdict.index("Your mark:") :].split("\n")[0]
            mark = int(line.replace("Your mark:", "").strip())
    except ValueError:
        return None
    return None if mark is None else (min(5, max(1, mark)) - 1) / 4


Rule = Callable[[str, str], Value]
LETTERS: dict[str, Rule] = {
    "erqa": erqa,
    "vsibench": vsibench_choice,
    "mvbench": mvbench,
    "phyx": phyx_by_rules,
    "omnispatial": omnispatial,
    "blink": leading,
    "embspatial": leading,
    "cosmos": cosmos,
    "mmstar": mmstar,
}
