"""Every kind of answer, case by case, worked by hand."""

from __future__ import annotations

import re
import textwrap

import pytest

from pelican.records import (
    Answer,
    BoxAnswer,
    ChoiceAnswer,
    CountAnswer,
    DistanceAnswer,
    Family,
    IntervalAnswer,
    OrderAnswer,
    PointsAnswer,
    StepsAnswer,
    TextAnswer,
    YesNoAnswer,
)
from pelican.rewards import families, kinds, reason_class
from tests.conftest import ROOT
from tests.rewards.samples import graded, rectangle

# 100 x 50 pixels on a grid of 100: x is a column, y / 2 is a row. Inside: x 20..60, y 20..60.
POINTS = PointsAnswer(mask=rectangle(20, 10, 60, 30))
BOX = BoxAnswer(box=(10, 10, 30, 30))
COUNT = CountAnswer(value=3)
DISTANCE = DistanceAnswer(value=30, unit="cm")
CHOICE = ChoiceAnswer(options=("red cup", "blue cup", "the bowl", "2"), answer="B")
YES = YesNoAnswer(value=True)
ORDER = OrderAnswer(items=("cup", "the bowl", "plate"))
INTERVAL = IntervalAnswer(start=8, end=16)
STEPS = StepsAnswer(steps=("pick the cup", "move to the shelf", "place the cup"))
TEXT = TextAnswer(value="the red cup", aliases=("cup",))

Case = tuple[Answer, str, float, str]


def cases(answer: Answer, *rows: tuple[str, float, str]) -> list[Case]:
    return [(answer, *row) for row in rows]


CASES: list[Case] = [
    *cases(
        POINTS,
        ("(30, 40)", 1, ""),
        ("[30, 40]", 1, ""),
        ("30, 40", 1, ""),
        ("(30, 40), (90, 90)", 0.5, ""),
        ("[(30, 40), (40, 40), (90, 90)]", 2 / 3, ""),
        ('{"point_2d": [30, 40], "label": "grasp here"}', 1, ""),
        ('<point x="30" y="40">here</point>', 1, ""),
        ("(19.9, 40)", 0, "wrong"),  # column 19
        ("(59.9, 59.9)", 1, ""),
        ("(60, 40)", 0, "wrong"),
        ("(30, 40), (130, 40)", 0.5, ""),  # one outside the frame
        ("(-1, 40)", 0, "wrong"),
        ("(100, 100)", 0, "wrong"),  # the frame's last pixel, not beyond it
        ("(30, 40), (30, 40), (90, 90)", 0.5, ""),  # repeated, counted once
        ("(30, 40), (30.2, 40.1), (90, 90)", 0.5, ""),  # the same pixel
        ("[20, 20, 60, 60]", 0, "refused"),
        ("0 0 100 100", 0, "refused"),
        ("<box>(20, 20), (60, 60)</box>", 0, "refused"),
        ("; ".join(f"(30, {20 + i})" for i in range(11)), 0, "refused"),
        ("(30, 40, 1)", 0, "unreadable"),
        ("in the middle of the table", 0, "unreadable"),
        ("", 0, "no answer"),
    ),
    *cases(
        BOX,
        ("[10, 10, 30, 30]", 1, ""),
        ("10 10 30 30", 1, ""),
        ("(10, 10), (30, 30)", 1, ""),
        ("[30, 30, 10, 10]", 1, ""),
        ('{"bbox_2d": [10, 10, 30, 20]}', 0.5, ""),
        ("[20, 10, 40, 30]", 1 / 3, ""),  # 200 in common, 600 together
        ("[0, 0, 100, 100]", 0.04, ""),
        ("[50, 50, 60, 60]", 0, "wrong"),
        ("[10, 10, 10, 30]", 0, "unreadable"),
        ("(20, 20)", 0, "unreadable"),
        ("[10, 10, 30, 30] or [40, 40, 50, 50]", 0, "several answers"),
        ("the cup", 0, "unreadable"),
    ),
    *cases(
        COUNT,
        ("3", 1, ""),
        ("three", 1, ""),
        ("Three cups.", 1, ""),
        ("3.0", 1, ""),
        ("There are 3 cups", 1, ""),
        ("3, three", 1, ""),
        ("4", 0, "wrong"),
        ("-3", 0, "wrong"),
        ("3.5", 0, "wrong"),
        ("3,000", 0, "wrong"),
        ("3 or 4", 0, "several answers"),
        ("three or 4", 0, "several answers"),
        ("2-3", 0, "several answers"),
        ("1 2 3 4 5", 0, "several answers"),
        ("many", 0, "unreadable"),
        ("sİx", 0, "unreadable"),  # the dotted capital matches i without case
    ),
    *cases(
        DISTANCE,
        ("30 cm", 1, ""),
        ("30", 1, ""),  # the asked unit
        ("0.3 m", 1, ""),
        ("300mm", 1, ""),
        ("0.30 metres.", 1, ""),
        ("thirty centimetres", 1, ""),
        ("12 in", 1, ""),  # 30.48, 1.6 % off
        ("12 inches (30 cm)", 1, ""),
        ("1 foot", 1, ""),
        ("30 in total", 1, ""),  # a preposition, not inches
        ("33 cm", 0.9, ""),  # 10 % off: all but theta = .95
        ("36", 0.7, ""),  # 20 % off: .50 … .80
        ("45", 0.1, ""),  # 50 % off: .50 alone
        ("15", 0.1, ""),
        ("46", 0, "wrong"),
        ("1 ft 3 in", 0.5, ""),  # 38.1: 27 % off: .50 … .70
        ("0", 0, "wrong"),
        ("-30 cm", 0, "wrong"),
        ("3 m", 0, "wrong"),
        ("20 to 30 cm", 0, "several answers"),
        ("30 kg", 0, "unreadable"),
        ("30 degrees", 0, "unreadable"),
        ("near", 0, "unreadable"),
        ("mİllimetres sİx", 0, "unreadable"),
        ("30 mİllimetres", 1, ""),  # no unit that we know: the asked one
    ),
    *cases(
        CHOICE,
        ("B", 1, ""),
        ("b", 1, ""),
        ("(B)", 1, ""),
        ("B.", 1, ""),
        ("B) blue cup", 1, ""),
        ("B. the blue cup", 1, ""),
        ("b) blue cup", 1, ""),
        ("The blue cup.", 1, ""),
        ("The answer is B.", 1, ""),
        ("**B**", 1, ""),
        ("Option B", 1, ""),
        ("B, because a hand is there", 1, ""),
        ("A", 0, "wrong"),
        ("2", 0, "wrong"),  # the text of D
        ("Z", 0, "unreadable"),
        ("cup", 0, "unreadable"),
        ("ABCD", 0, "unreadable"),
        ("A, B, C, D", 0, "several answers"),
        ("A or B", 0, "several answers"),
        ("A maybe B", 0, "several answers"),
        ("b. a", 0, "several answers"),
        ("B. A cup is there", 1, ""),
        ("b) a cup is there", 1, ""),
        ("A cup is there", 0, "unreadable"),
        ("a) b) c)", 0, "several answers"),
        ("B. red cup", 0, "several answers"),
        ("B) blue cup or the bowl", 0, "several answers"),
    ),
    *cases(
        YES,
        ("yes", 1, ""),
        ("Yes.", 1, ""),
        ("YES, it stands upright", 1, ""),
        ("The answer is yes", 1, ""),
        ("(yes)", 1, ""),
        ("no", 0, "wrong"),
        ("No, it fell", 0, "wrong"),
        ("yes and no", 0, "several answers"),
        ("yes / no", 0, "several answers"),
        ("yesterday", 0, "unreadable"),
        ("it is done", 0, "unreadable"),
    ),
    *cases(
        ORDER,
        ("cup; bowl; plate", 1, ""),
        ("cup > bowl > plate", 1, ""),
        ("cup -> the bowl -> plate", 1, ""),
        ("1. cup\n2. bowl\n3. plate", 1, ""),
        ("1) Cup 2) Bowl 3) Plate", 1, ""),
        ("cup, bowl, and plate", 1, ""),
        ("cup; plate; bowl", 2 / 3, ""),  # 1 of 3 pairs is wrong
        ("plate; cup; bowl", 1 / 3, ""),
        ("plate; bowl; cup", 0, "wrong"),
        ("cup; bowl", 0, "wrong"),
        ("cup; bowl; plate; fork", 0, "wrong"),
        ("cup; cup; bowl; plate", 0, "wrong"),
        (";;", 0, "unreadable"),
    ),
    *cases(
        INTERVAL,
        ("8 to 16 s", 1, ""),
        ("8-16", 1, ""),
        ("[8.0, 16.0]", 1, ""),
        ("from 8 s to 16 seconds", 1, ""),
        ("0:08 - 0:16", 1, ""),
        ("8000 ms to 16000 ms", 1, ""),
        ("12 to 20 s", 1 / 3, ""),  # 4 of 12
        ("8 to 12", 0.5, ""),
        ("0 to 64 s", 0.125, ""),
        ("20 to 30 s", 0, "wrong"),
        ("16 to 24", 0, "wrong"),
        ("8 to 16 min", 0, "wrong"),
        ("16 to 8", 0, "unreadable"),
        ("-8 to 16", 0, "unreadable"),
        ("8", 0, "unreadable"),
        ("8 to 16, 20 to 30", 0, "several answers"),
    ),
    *cases(
        STEPS,
        ("pick the cup; move to the shelf; place the cup", 1, ""),
        ("1. Pick the cup.\n2. Move to shelf.\n3. Place cup.", 1, ""),
        ("Step 1: pick cup; Step 2: move to shelf; Step 3: place cup", 1, ""),
        ("pick cup, then move to the shelf, then place cup", 1, ""),
        ("pick cup; place cup", 2 / 3, ""),
        ("place cup; move to shelf; pick cup", 1 / 3, ""),
        ("pick cup; open door; move to shelf; place cup", 0.75, ""),  # padding costs
        ("pick cup; pick cup; pick cup; pick cup; pick cup; pick cup", 1 / 6, ""),
        ("open door", 0, "wrong"),
        ("; ".join(["pick cup"] * 101), 0, "refused"),
    ),
    *cases(
        TEXT,
        ("the red cup", 1, ""),
        ("Red Cup", 1, ""),
        ("  red   cup. ", 1, ""),
        ("red-cup", 1, ""),
        ("a cup", 1, ""),
        ('"red cup"', 1, ""),
        ("The answer is: red cup", 1, ""),
        ("cups", 0, "wrong"),
        ("red", 0, "wrong"),
        ("red cup or bowl", 0, "wrong"),
    ),
]


@pytest.mark.parametrize(("answer", "text", "task", "reason"), CASES)
def test_a_worked_case(answer: Answer, text: str, task: float, reason: str) -> None:
    found = graded(answer, text)
    assert found.task == pytest.approx(task), found.reason
    assert reason_class(found.reason) == reason
    assert found.success == (task >= (0.75 if answer.kind in ("order", "steps") else 0.5))
    assert found.reward == pytest.approx(0.1 * found.format + 0.9 * task)


def test_units_that_are_asked_are_those_of_the_answer() -> None:
    in_feet = DistanceAnswer(value=5.25, unit="ft")
    assert graded(in_feet, "5 ft 3 in").task == 1
    assert graded(in_feet, "1.6 m").task == 1
    assert graded(in_feet, "5.25").task == 1
    assert graded(in_feet, "5'3\"").task == 1


def test_an_order_may_name_an_item_twice() -> None:
    twice = OrderAnswer(items=("pick", "place", "pick"))
    assert graded(twice, "pick; place; pick").task == 1
    assert graded(twice, "pick; pick; place").task == pytest.approx(2 / 3)
    assert graded(twice, "pick; place").task == 0


def test_the_reason_names_what_is_missing() -> None:
    assert graded(ORDER, "cup; bowl").reason == "wrong: missing item 'plate'"


def test_a_letter_of_the_general_cards_is_a_text() -> None:
    assert graded(TextAnswer(value="a"), "A").task == 1
    assert graded(TextAnswer(value="a"), "b").task == 0


def test_the_rule_that_the_docs_add_takes_effect_in_the_family_that_names_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    page = (ROOT / "docs" / "rewards.md").read_text()
    rule, row = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert textwrap.indent(rule, "    ") in (kinds.__doc__ or "")  # the head shows the same one
    scope = dict(vars(kinds))
    exec(rule, scope)
    monkeypatch.setattr(kinds, "near_count", scope["near_count"], raising=False)
    for family, rules in eval(f"{{{row}}}", dict(vars(families))).items():
        monkeypatch.setitem(families.FAMILIES, family, rules)
    near = graded(COUNT, "4", Family.COUNTING)
    assert near.task == pytest.approx(2 / 3) and not near.reason
    assert graded(COUNT, "9", Family.COUNTING).reason == "wrong"
    assert graded(COUNT, "4", Family.SUCCESS).task == 0
