"""Answers of sources, as Pelican's kinds: a table of what is read and what is refused."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest

from pelican.data.formats.base import Reference
from pelican.data.importing.answers import bare_options, options_in, read_answer, with_options
from pelican.data.importing.classify import classify
from pelican.data.tables import RowError
from pelican.records import ChoiceAnswer, CountAnswer, OpenAnswer, TextAnswer
from pelican.rewards.masks import decode_mask
from tests.hostile import ends_at_once

SIZE = (200, 100)
LEFT_RIGHT = ("left", "right", "above")


def read(value: Any, question: str = "Which?", **more: Any) -> dict[str, Any]:
    kind = more.pop("question_type", "")
    answer = read_answer(Reference(value, **more), question, SIZE, kind)
    return {k: v for k, v in answer.model_dump().items() if k != "mask"}


@pytest.mark.parametrize(
    ("value", "question", "more", "expected"),
    [
        ("B", "Which?", {"options": LEFT_RIGHT}, {"answer": "B"}),
        ("(c) above", "Which?", {"options": LEFT_RIGHT}, {"answer": "C"}),
        ("Right.", "Which?", {"options": LEFT_RIGHT}, {"answer": "B"}),
        ("B. right", "Which?", {"options": ("A. left", "B. right")}, {"answer": "B"}),
        (0, "Which?", {"options": LEFT_RIGHT, "index": True}, {"answer": "A"}),
        ("2", "Which?", {"options": LEFT_RIGHT, "index": True}, {"answer": "C"}),
        ("3", "How many?", {"options": ("2", "3")}, {"answer": "B"}),
        ("(B)", "Where? (A) left (B) right", {}, {"options": ("left", "right"), "answer": "B"}),
        ("<think>so</think><answer>A</answer>", "Q?\nA. x\nB. y", {}, {"answer": "A"}),
        ("yes, it did", "Did it?", {}, {"value": True}),
        (False, "Did it?", {}, {"value": False}),
        ("1,200", "How many?", {}, {"kind": "count", "value": 1200}),
        ("three", "How many cups?", {}, {"kind": "count", "value": 3}),
        (2.0, "How many?", {}, {"kind": "count", "value": 2}),
        ("12.5 cm", "How far?", {}, {"kind": "distance", "value": 12.5, "unit": "cm"}),
        ("3", "How far, in meters?", {}, {"kind": "distance", "value": 3.0, "unit": "m"}),
        ("2", "How long?", {"unit": "feet"}, {"kind": "distance", "value": 2.0, "unit": "ft"}),
        ("[(0.1, 0.2)]", "When facing it, point at it.", {}, {"kind": "points", "scale": 1}),
        ("(10, 20)", "Point, 0 to 100.", {}, {"kind": "points", "scale": 100}),
        ("[[1, 2, 3, 4]]", "Box, [0, 1000].", {}, {"kind": "box", "scale": 1000}),
        ([0.1, 0.2, 0.3, 0.4], "Box?", {}, {"kind": "box", "box": (0.1, 0.2, 0.3, 0.4)}),
        ("[1.5, 4]", "When is it held?", {}, {"kind": "interval", "start": 1.5, "end": 4.0}),
        ("from 2 to 3.5 s", "When?", {}, {"kind": "interval", "start": 2.0, "end": 3.5}),
        ("1. open\n2. grasp", "Plan?", {}, {"kind": "steps", "steps": ("open", "grasp")}),
        ('["open", "grasp"]', "Plan?", {}, {"kind": "steps", "steps": ("open", "grasp")}),
        ("a red mug", "What?", {"aliases": ("mug",)}, {"kind": "text", "aliases": ("mug",)}),
        ("It stands on the table near the wall", "Where?", {}, {"kind": "open"}),
    ],
)  # fmt: skip
def test_answers_that_are_read(
    value: Any, question: str, more: dict[str, Any], expected: dict[str, Any]
) -> None:
    found = read(value, question, **more)
    assert {name: found[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("value", "question", "more", "code"),
    [
        (None, "Q?", {}, "answer_missing"),
        ("", "Q?", {}, "answer_missing"),
        ([], "Q?", {}, "answer_missing"),
        ("E", "Q?", {"options": LEFT_RIGHT}, "answer"),
        (7, "Q?", {"options": LEFT_RIGHT, "index": True}, "answer"),
        ("below", "Q?", {"options": LEFT_RIGHT}, "answer"),
        ("A", "Q?", {"options": ("x", "X")}, "answer"),
        ("A", "Q?", {"options": ("x",)}, "answer"),
        (float("nan"), "Q?", {}, "not_finite"),
        ([[0.1, float("inf")]], "Q?", {}, "not_finite"),
        ("[(1.5, 0.2)]", "Point, between 0 and 1.", {}, "answer"),
        ("[(150, 20)]", "Point at it.", {}, "answer"),
        ("[[0.4, 0.4, 0.1, 0.1]]", "Box?", {}, "answer"),
        ("2.5", "How much?", {}, "answer"),
        ("-3", "How many?", {}, "answer"),
        ("0 cm", "How far?", {}, "answer"),
        ("<answer>A</answer><answer>B</answer>", "Q?", {}, "answer"),
        ("nowhere", "Point at it.", {"kind": "points"}, "answer"),
        ([4.0, 1.0], "When?", {}, "answer"),
        ("long", "How long?", {"unit": "cm"}, "answer"),
    ],
)  # fmt: skip
def test_answers_that_are_refused(
    value: Any, question: str, more: dict[str, Any], code: str
) -> None:
    with pytest.raises(RowError) as caught:
        read(value, question, **more)
    assert caught.value.code == code


def test_points_without_a_mask_become_discs_at_their_places() -> None:
    answer = read_answer(Reference("[(0.25, 0.5)]"), "Point at it.", SIZE)
    assert answer.kind == "points"
    pixels = decode_mask(answer.mask)
    assert pixels.shape == (100, 200) and pixels[50, 50] == 1 and pixels[50, 65] == 0
    assert 80 < pixels.sum() < 150  # a disc of radius 6


def test_options_inside_a_question() -> None:
    assert options_in("Where is it?\nA. on the table\nB. under it\nC. gone") == (
        "on the table",
        "under it",
        "gone",
    )
    assert options_in("Is A. better?") == () and options_in("B. x C. y") == ()
    assert bare_options(["A. x", "(B) y", "C"]) == ("x", "y", "C")


@pytest.mark.parametrize(
    ("question", "kind", "family", "sure"),
    [
        ("How many cups are there?", "", "counting", 0.9),
        ("Did the robot complete the task?", "", "success", 0.8),
        ("What is the next step?", "", "planning", 0.8),
        ("What will happen if it lets go?", "", "prediction", 0.8),
        ("Is this on?", "object state recognition", "success", 0.95),
        ("Which?", "Object-Rel Distance", "counting", 0.95),
        ("Is it green?", "", "general", 0.2),
    ],
)
def test_families_by_type_and_by_words(question: str, kind: str, family: str, sure: float) -> None:
    label = classify(question, CountAnswer(value=1), kind)
    counted = family if family != "general" else "counting"  # a count of nothing else is one
    assert (label.family.value, label.confidence) == (
        counted,
        sure if family != "general" else 0.6,
    )


def test_a_family_always_has_a_reward_for_its_answer() -> None:
    label = classify("Where can I grasp it?", OpenAnswer(reference="at its handle"))
    assert (label.family.value, label.dimension.value) == ("general", "affordance_function")
    assert classify("Is it red?", TextAnswer(value="red")).confidence == 0.2
    said = classify("Is it red?", TextAnswer(value="red"), "", "success", "physical_causal")
    assert (said.family.value, said.confidence) == ("success", 1.0)
    with pytest.raises(RowError, match="'red' is no family"):
        classify("Is it red?", TextAnswer(value="red"), "", "red")


@pytest.mark.parametrize(
    ("question", "options", "listed"),
    [
        ("Is it left or right of the cup?", ("left", "right"), False),
        ("杯子在左边还是右边？", ("左边", "右边"), False),
        ("In which position is the container?", ("on", "in"), True),  # parts of other words
        ("How many of the 12 cups were there at 3:45?", ("1", "2", "3", "4"), True),
        ("Which?\nA. cup\nB. bowl", ("cup", "bowl"), False),
    ],
)
def test_options_are_listed_unless_the_question_says_them(
    question: str, options: tuple[str, ...], listed: bool
) -> None:
    asked = with_options(question, ChoiceAnswer(options=options, answer="A"))
    assert (asked != question) is listed
    assert all(option in asked for option in options)


@pytest.mark.parametrize("unit", ["[", "(", " ", "1", "\n", "a "])
def test_a_hostile_answer_is_read_at_once(unit: str) -> None:
    def reads(text: str) -> None:
        with suppress(RowError):
            read(text, f"Is it open?\nA. {text}\nB. no")

    for text in (f"{unit * (7000 // len(unit))}x > c", f"so{unit * (7000 // len(unit))}x"):
        assert ends_at_once(lambda: reads(text))  # noqa: B023 - called here
