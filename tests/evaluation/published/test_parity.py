"""Pelican's grades against the benchmarks' own rules, over replies that are made up.

Nothing here wears marks such as `<answer>`: without them the published rule gets the reply as it
came. Where Pelican departs, the table in docs/published-benchmarks.md says so, and is tried here.
"""

from __future__ import annotations

import io
import random
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pelican.base.parse import parse_json
from pelican.evaluation.published import BENCHMARKS
from pelican.evaluation.published.base import Context, Picture, Question, final_reply
from pelican.rewards.judge import between_marks
from tests.conftest import ROOT
from tests.evaluation.published import made_up, official
from tests.evaluation.published.made_up import OPTIONS, SIDES, SQUARE, replies

FEW, MANY = 2_000, 40_000
COUNTS = [FEW, pytest.param(MANY, marks=pytest.mark.long)]
NOWHERE = Context(Path("."))


def _mask(grey: bool) -> tuple[Picture, official.Mask]:
    """An ellipse; with `grey` its edge is soft, as in RoboPoint's masks."""
    width, height = SIDES
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    far = ((x - 9) / 7) ** 2 + ((y - 5) / 3) ** 2
    pixels = np.where(far < 0.6, 255, np.where(far < 1, 77 if grey else 255, 0)).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return Picture(data=out.getvalue()), pixels / 255


GREY, BLACK = _mask(grey=True), _mask(grey=False)
POINTS: dict[str, tuple[str, Callable[[random.Random], str], Callable[[str, official.Mask], official.Value]]] = {
    "where2place": ("where2place", made_up.places, official.where2place),
    "refspatial": ("refspatial", made_up.places, official.refspatial),
    "refspatial, Molmo": ("refspatial", made_up.molmo, official.refspatial_molmo),
    "refspatial, Gemini": ("refspatial", made_up.gemini, official.refspatial_gemini),
}  # fmt: skip


def grade(name: str, reply: str, truth: str, context: Context = NOWHERE) -> float:
    """Pelican's grade of a completion; the group of VSI-Bench is told by the truth."""
    group = "room_size_estimation" if truth.isdecimal() else "route_planning"
    mask = (GREY if name == "where2place" else BLACK)[0] if truth == "mask" else None
    question = Question("q", "?", (Picture(b"-"),), truth, group, options=OPTIONS, mask=mask)
    return BENCHMARKS[name].grade(question, final_reply(reply), context).value


def published(name: str, reply: str, truth: str) -> official.Value:
    """The value that the published code gives."""
    if truth == "mask":
        mask = GREY[1] if name == "where2place" else BLACK[1]
        molmo, gemini = "<point" in reply, '"point' in reply
        if name == "refspatial" and (molmo or gemini):
            return (official.refspatial_molmo if molmo else official.refspatial_gemini)(reply, mask)
        return (official.where2place if name == "where2place" else official.refspatial)(reply, mask)
    if name == "egoschema":
        return official.egoschema(reply, truth, OPTIONS)
    if name == "robospatial":
        return official.robospatial(reply, truth)
    if truth.isdecimal():
        return official.vsibench_number(reply, truth)
    return official.LETTERS[name](reply, truth)


# What Pelican grades lower or higher than the published code, each told in the documentation: the
# published value is not looked at where one of these holds.
def departs(name: str, reply: str, truth: str, value: official.Value) -> bool:
    bare = reply.strip().upper() == truth
    unstated = re.search(r"answer\s*:\s*[a-d]\b", reply, re.IGNORECASE) is None
    molmo = "<point" in reply and not re.search(r'x\d+="[^"]*"\s+y\d+="', reply)
    return (
        value is None  # the code fails, leaves the reply out or draws lots
        or (name == "phyx" and bare)
        or (name == "omnispatial" and unstated and truth == "A")
        or (name == "refspatial" and molmo)  # tags in another form than the published pattern
    )


TRUTHS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(official.LETTERS, ("A", "B", "C", "D")),
    "egoschema": ("A", "B", "C", "D", "E"),
    "robospatial": ("Yes", "No"),
}


def _differences(
    name: str,
    made: Callable[[random.Random], str],
    truths: tuple[str, ...],
    rule: Callable[[str, str], official.Value],
    count: int,
) -> tuple[list[tuple[str, str, float, official.Value]], set[float]]:
    """Replies that are graded otherwise than published, and all the values that came."""
    found, values = [], set()
    for number, reply in enumerate(replies(made, count, seed=1)):
        truth = truths[number % len(truths)]
        value, own = rule(reply, truth), grade(name, reply, truth)
        values.add(own)
        if departs(name, reply, truth, value):
            assert value is not None or own == 0  # what the code fails at counts 0
        elif own != pytest.approx(value, abs=1e-9):
            found.append((reply, truth, own, value))
    return found, values


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("name", TRUTHS)
def test_letters_and_words_are_graded_as_published(name: str, count: int) -> None:
    found, values = _differences(
        name,
        made_up.letters,
        TRUTHS[name],
        lambda reply, truth: published(name, reply, truth),
        count,
    )
    assert not found, found[:5]
    assert values == {0.0, 1.0}


@pytest.mark.parametrize("count", COUNTS)
def test_numbers_are_graded_as_published(count: int) -> None:
    found, values = _differences(
        "vsibench", made_up.numbers, ("3", "2", "1"), official.vsibench_number, count
    )
    assert not found, found[:5]
    assert len(values) > 4


@pytest.mark.parametrize("count", COUNTS)
def test_places_in_a_polygon_are_graded_as_published(count: int) -> None:
    found, values = _differences(
        "robospatial", made_up.places, (SQUARE,), official.robospatial, count
    )
    assert not found, found[:5]
    assert values == {0.0, 1.0}


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("which", POINTS)
def test_points_in_a_mask_are_graded_as_published(which: str, count: int) -> None:
    name, made, rule = POINTS[which]
    mask = GREY[1] if name == "where2place" else BLACK[1]
    found, values = _differences(name, made, ("mask",), lambda reply, _: rule(reply, mask), count)
    assert not found, found[:5]
    assert len(values) > 5


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("verdict", ["1", "0"])
def test_phyx_asks_its_judge_where_the_published_code_does(verdict: str, count: int) -> None:
    context = Context(Path("."), lambda prompt, max_tokens: verdict)
    for reply in replies(made_up.letters, count, seed=2):
        if reply.strip():  # an empty one is not shown to the judge
            value = official.phyx_judged(reply, "B", verdict)
            assert grade("phyx", reply, "B", context) == value, reply


@pytest.mark.parametrize("count", COUNTS)
def test_a_judges_mark_is_read_as_published(count: int) -> None:
    told: list[str] = []
    draw = random.Random(5)

    def ask(prompt: str, max_tokens: int) -> str:
        told.append(prompt)
        return verdict

    for reply in replies(made_up.letters, count, seed=3):
        verdict = made_up.verdicts(draw)
        value = official.openeqa_value(verdict)
        own = grade("openeqa", reply, "a cup", Context(Path("."), ask))
        if value is not None and reply.strip():
            assert own == value, verdict
            assert between_marks(official.openeqa_shown(reply)) in told[-1]


# The table of departures in the documentation.

_ROW = re.compile(r"\| `(\w+)` \| ([^|]+) \| `(.*)` \| `([^`]+)` \| ([\d.]+|none) \| ([\d.]+) \|")
TABLE = [
    row.groups()
    for row in _ROW.finditer((ROOT / "docs" / "published-benchmarks.md").read_text("utf-8"))
]


@pytest.mark.parametrize(("name", "what", "reply", "truth", "there", "here"), TABLE)
def test_the_documentation_names_every_departure_and_what_it_does(
    name: str, what: str, reply: str, truth: str, there: str, here: str
) -> None:
    reply = str(parse_json(f'"{reply}"')).replace("¦", "|")
    truth = SQUARE if truth == "square" else truth
    value = published(name, reply, truth)
    assert value == (None if there == "none" else pytest.approx(float(there)))
    assert grade(name, reply, truth) == pytest.approx(float(here))
    assert value != float(here)


def test_no_departure_is_without_its_row() -> None:
    assert {name for name, *_ in TABLE} >= {
        "omnispatial",
        "egoschema",
        "mvbench",
        "phyx",
        "refspatial",
    }
