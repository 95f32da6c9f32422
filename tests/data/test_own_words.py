"""What a source says, written as a reply, earns 1; what does not is left out with a reason."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pelican.config.recipe import RewardConfig
from pelican.data.formats.base import Media, Record, Reference
from pelican.data.importing.convert import Bad, Defaults, Good, convert
from pelican.data.importing.media import Finder, Loader
from pelican.data.video import ClipCache, ClipRule
from pelican.records import Turn
from pelican.rewards import score
from tests.data.factory import picture

OPTIONS = "What moved the block?\nOptions:\n(A) Gravity\n(B) A push\n(C) A magnet"
CUPS, DISC = "How many cups are there?", "Point at the disc, 0 to 1000."
ROOM = "How big is the room in square meters?"
PICTURE = picture(1, (40, 30))


LOADER = Loader(Finder(()), ClipRule(), ClipCache(None))  # the pictures stand in the rows


def imported(value: Any, question: str, **more: Any) -> Good | Bad:
    """The row of a clip of 20 s."""
    clip = tuple(Media("image", data=PICTURE, start_s=20.0 * i) for i in range(2))
    turns = (Turn(role="user", text=question),)
    record = Record("row 1", "k", turns, clip, Reference(value, **more))
    return convert(record, LOADER, Defaults("test"))


KEPT: list[tuple[Any, str, dict[str, Any]]] = [
    *((words, OPTIONS, {"kind": "choice", "answer": "B"}) for words in (
        "Answer: (B) A push", "Answer: B", "The answer is B.", "Option B", "**B**", "<answer>\\boxed{B}</answer>", "B",
        "(B) A push.", "A push", "B: a push", "答案是B", "选B", "It fell, so the answer is B.", "{\"answer\": \"B\"}", "\\boxed{\\text{B}}")),
    ("3 cups", CUPS, {"kind": "count", "value": 3}),
    ("There are three.", CUPS, {"kind": "count", "value": 3}),
    ("twenty-one", CUPS, {"kind": "count", "value": 21}),
    ("none", CUPS, {"kind": "count", "value": 0}),
    ("There are no cups.", CUPS, {"kind": "count", "value": 0}),
    ("共3个", "有多少个杯子？", {"kind": "count", "value": 3}),
    ("12 seconds", "How many seconds does it take?", {"kind": "count", "value": 12}),
    ("30%", "How many percent of the cups are red?", {"kind": "count", "value": 30}),
    ("Yes it is.", "Is it on?", {"kind": "yes_no", "value": True}),
    ("Yes, no doubt", "Is it on?", {"kind": "yes_no", "value": True}),
    ("No, it is off.", "Is it on?", {"kind": "yes_no", "value": False}),
    ("y", "Is it on?", {"kind": "yes_no", "value": True}),
    ("F", "True or false: it is on.", {"kind": "yes_no", "value": False}),
    (0, "Did it succeed?", {"kind": "yes_no", "value": False}),
    ("open", "Is it open or closed?", {"kind": "text", "value": "open"}),
    ("a spoon", "Can you tell what it is?", {"kind": "text", "value": "a spoon"}),
    ("True", "True or false: it is on.", {"kind": "yes_no", "value": True}),
    ("False", "The lamp is on.", {"kind": "yes_no", "value": False}),
    (False, "Is it on?", {"kind": "yes_no", "value": False}),
    ("是的", "它开着吗？", {"kind": "yes_no", "value": True}),
    ("不是，它关着。", "它开着吗？", {"kind": "yes_no", "value": False}),
    ("No. 5", "Which bus is it?", {"kind": "text", "value": "No. 5"}),
    ("5 ft 3 in", "How tall is the door?", {"kind": "distance", "value": 5.25, "unit": "ft"}),
    ("5 ft 3 in", "How tall is the door in centimeters?", {"kind": "distance", "value": 160.02, "unit": "cm"}),
    ("20 square meters", ROOM, {"kind": "distance", "value": 20, "unit": "m"}),
    ("20", ROOM, {"kind": "distance", "value": 20, "unit": "m"}),
    ("215 sq ft", ROOM, {"kind": "distance", "value": pytest.approx(19.97, abs=0.01), "unit": "m"}),
    ("about 1.5 m", "How far is it in meters?", {"kind": "distance", "value": 1.5, "unit": "m"}),
    ("1,5 m", "How far is it?", {"kind": "distance", "value": 1.5, "unit": "m"}),
    ("1.2米", "它有多远？", {"kind": "distance", "value": 1.2, "unit": "m"}),
    ("The cup is 30 cm away.", "How far is the cup?", {"kind": "distance", "value": 30, "unit": "cm"}),
    ("2 km", "How far is it?", {"kind": "distance", "value": 2000, "unit": "m"}),
    ("两米", "它有多远？", {"kind": "distance", "value": 2, "unit": "m"}),
    ("20平米", "房间有多少平方米？", {"kind": "distance", "value": 20, "unit": "m"}),
    ("2.5", "How many meters away is it?", {"kind": "distance", "value": 2.5, "unit": "m"}),
    ("00:01 - 00:03", "When is it held?", {"kind": "interval", "start": 1, "end": 3}),
    ("1 to 3", "Which seconds show it?", {"kind": "interval", "start": 1, "end": 3}),
    (["00:01", "00:03"], "When is it held?", {"kind": "interval", "start": 1, "end": 3}),
    ("00:01 - 00:03", "Which second does it move?", {"kind": "interval", "start": 1, "end": 3}),
    ("8秒到16秒", "它什么时候移动？", {"kind": "interval", "start": 8, "end": 16}),
    ("300, 400", DISC, {"kind": "points", "scale": 1000}),
    ('{"x": 300, "y": 400}', DISC, {"kind": "points", "scale": 1000}),
    ("x: 300, y: 400", DISC, {"kind": "points", "scale": 1000}),
    ("b", "What moved it?\n(a) wind; (b) a push", {"kind": "choice", "options": ("wind", "a push"), "answer": "B"}),
    (3, "How many?\nA. 2\nB. 3", {"kind": "choice", "answer": "B"}),
    ("open; grasp; lift", "What are the steps?", {"kind": "steps", "steps": ("open", "grasp", "lift")}),
    ("open → grasp → lift", "What happens?", {"kind": "steps", "steps": ("open", "grasp", "lift")}),
    ("open, grasp and then lift", "In what order?", {"kind": "steps"}),
    ("First, open. Then grasp. Finally, lift.", "What are the steps?", {"kind": "steps"}),
    ("cup, bowl, pot", "Sort them by size.", {"kind": "steps", "steps": ("cup", "bowl", "pot")}),
    ("['open', 'grasp']", "What are the steps?", {"kind": "steps", "steps": ("open", "grasp")}),
    ("① open ② grasp", "What happens?", {"kind": "steps", "steps": ("open", "grasp")}),
    ("007", "What is written on the door?", {"kind": "text", "value": "007"}),
    ("007", "What is the room's number?", {"kind": "text", "value": "007"}),
    ("1e5", "What does the label read?", {"kind": "text", "value": "1e5"}),
    ("3.14", "What does the display show?", {"kind": "text", "value": "3.14"}),
    ("不锈钢", "什么材料？", {"kind": "text", "value": "不锈钢"}),
    ("对面", "在哪里？", {"kind": "text", "value": "对面"}),
    ("Non-stick pan", "What is it?", {"kind": "text", "value": "Non-stick pan"}),
    ("3D printer", "What is it?", {"kind": "text", "value": "3D printer"}),
    ("7 Up", "Which drink?", {"kind": "text", "value": "7 Up"}),
    ("no parking", "What does the sign say?", {"kind": "text", "value": "no parking"}),
    ("5 kg", "What is written on the plate?", {"kind": "text", "value": "5 kg"}),
    ("12:30", "What time does the clock show?", {"kind": "text", "value": "12:30"}),
    ("Answer: red cup", "What is it?", {"kind": "text", "value": "red cup"}),
    ("红色的杯子", "这是什么？", {"kind": "text", "value": "红色的杯子"}),
    ("red, green", "Which colours?", {"kind": "text"}),
    *((words, "What does the robot do next?", {"kind": "open", "reference": words}) for words in (
        "It opens the gripper, moves above the red block and takes it.",
        "先把夹爪张开，再移到红色积木的正上方，向下夹住它，最后放进右边的盒子里。",
        "グリッパーを開いて赤い積み木の真上に動き、つかんで右の箱に入れます。",
        "เปิดมือจับแล้วเลื่อนไปเหนือบล็อกสีแดงจากนั้นหยิบไปวางในกล่อง")),
    (["red", "red", "dark red"], "What colour is the block?", {"kind": "text", "value": "red", "aliases": ("dark red",)}),
    (["open", "grasp", "open"], "How do you put the cup away?", {"kind": "steps", "steps": ("open", "grasp", "open")}),
    (["open", "grasp"], "What are the steps?", {"kind": "steps"}),
    (["2", "2", "3"], CUPS, {"kind": "count", "value": 2}),
    ([{"answer": "red"}, {"answer": "crimson"}], "What colour?", {"kind": "text", "value": "red", "aliases": ("crimson",)}),
    ({"kind": "steps", "steps": ["open; close", "lift"]}, "What next?", {"kind": "steps", "more": "pelican"}),
]  # fmt: skip


@pytest.mark.parametrize(("value", "question", "expected"), KEPT)
def test_what_is_kept_earns_1(value: Any, question: str, expected: dict[str, Any]) -> None:
    expected = dict(expected)
    kind = expected.pop("more", "")
    found = imported(value, question, kind=kind)
    assert isinstance(found, Good), found
    answer = found.sample.answer.model_dump()
    assert {name: answer[name] for name in expected} == expected
    if isinstance(value, str) and found.sample.answer.kind != "open":
        for reply in (value, f"<think>So.</think><answer>{value}</answer>"):
            assert score(found.sample, reply, RewardConfig()).task == 1


LEFT_OUT: list[tuple[Any, str]] = [
    ("A, C", OPTIONS), ("A and C", OPTIONS), ("AC", OPTIONS), (["A", "C"], OPTIONS), ("D", OPTIONS), ("wind", OPTIONS),
    ("A, C", "What moved it?"), ("B", "Choose the right option."),
    ("3 kg", "How heavy is it?"), ("2.5 kg", "How heavy is it?"), ("25 °C", "How warm is it?"), ("30%", "How full is it?"),
    ("12 seconds", "How long does it take?"), ("5 m", "How long does it take?"), ("2:05", "How long is the clip?"), ("00:05", "When is it held?"),
    ("1.5 hours", "How long does it take?"), ("2,5 kg", "How heavy is it?"), ("3公斤", "它有多重？"),
    ("20 square meters", "How big is the room?"), ("20 m", ROOM), ("1.2 miles per hour", "How far is it in meters?"),
    ("3 or 4", CUPS), ("2.5", "How much?"), ("3 cups, 2 bowls", CUPS), ("0 m", "How far is it?"), ("1,5", "How far is it in meters?"),
    (["red", "blue"], "What colour is it?"), (["yes", "no"], "Is it on?"), ("red; blue", "Which colours?"),
    ([1, 2, 3], "Which?"), ("['red', 'blue']", "What colour is it?"), ("['red' 'blue']", "What colour is it?"),
    ("drei", "Wie viele?"), ("три", "Сколько?"), ("IV", CUPS), ("frame 10 to 20", "When is it held?"), ("3 to 1 s", "When is it held?"), ([[1, 2], [3, 4]], "When is it held?"), ("many", CUPS), ("at least 2", CUPS), ("more than 5", CUPS),
    ("not 4", CUPS), ("2+", CUPS), ("2个以上", "有多少个杯子？"), ("less than 1 m", "How far is it?"), ("一米二", "它有多远？"),
    ("very far", "How far is it in meters?"), ("€5", "What does it cost?"), ("not B", OPTIONS), ("all but B", OPTIONS),
    ("It is open.", "Is it open?"), ("1", "Is it open?"), ("Yes and no", "Is it open?"), ("开着", "开着吗？"),
    ("success", "Did it succeed?"), (2, "Are there cups?"), (7, "How many?\nA. 2\nB. 3"), ("00:05", "At what time does it start?"),
    ("(0.3, 0.4)", DISC), ("<box><30><40><50><60></box>", "Give its bounding box."), ("<loc0030><loc0040>", DISC),
    ("[[10, 10], [20, 20]]", "Draw the trajectory of the gripper, 0 to 1000."),
]  # fmt: skip


@pytest.mark.parametrize(("value", "question"), LEFT_OUT)
def test_what_no_kind_scores_is_left_out_with_a_reason(value: Any, question: str) -> None:
    found = imported(value, question)
    assert isinstance(found, Bad), found
    assert found.code == "answer" and 20 < len(found.reason) < 400


@pytest.mark.parametrize("value", ["N/A", "null", "-", "?", "", None])
def test_what_stands_for_no_answer_is_none(value: str | None) -> None:
    found = imported(value, "What is it?")
    assert isinstance(found, Bad) and found.code == "answer_missing"


def test_a_number_that_may_be_an_index_or_a_text_is_left_out() -> None:
    found = imported(2, "How many?", options=("2", "3", "4"), index=True)
    assert isinstance(found, Bad) and "give a letter" in found.reason
    found = imported(0, "How many?", options=("none", "3", "4"), index=True)
    assert isinstance(found, Good)


def test_annotators_by_their_column() -> None:
    found = imported(["red", "crimson"], "What colour?", kind="annotators")
    assert isinstance(found, Good)
    assert found.sample.answer.model_dump() == {
        "kind": "text", "value": "red", "aliases": ("crimson",)
    }  # fmt: skip


words = st.sampled_from(
    [
        "red",
        "cup",
        "the",
        "a",
        "an",
        "of",
        "3",
        "3.5",
        "1,200",
        "007",
        "1e5",
        "-2",
        "12:30",
        "yes",
        "no",
        "none",
        "true",
        "three",
        "twenty-one",
        "half",
        "dozen",
        "m",
        "cm",
        "ft",
        "kg",
        "%",
        "°C",
        "s",
        "in",
        "(B)",
        "B.",
        "A",
        "Option",
        "Answer:",
        "is",
        "→",
        ";",
        ",",
        "and",
        "then",
        "1.",
        "2)",
        "①",
        "(3,",
        "[0.2,",
        "0.4]",
        "0.5)",
        "\\boxed{x}",
        "\\text{m}",
        "**",
        "米",
        "3个",
        "是",
        "不是",
        "答案是",
        "秒",
        "到",
        "、",
        "。",
        "about",
        "±",
        "½",
    ]
)


@pytest.mark.parametrize(
    ("said", "split"),
    [
        ("train", "train"), ("Validation", "dev"), ("valid", "dev"), ("val_unseen", "dev"), ("eval", "test"),
        ("evaluation", "test"), ("test-mini", "test"), ("", "train"), ("held", "train"),
    ],
)  # fmt: skip
def test_a_row_s_split_in_the_names_that_the_field_has(said: str, split: str) -> None:
    """What is held out elsewhere is not trained on here."""
    turns = (Turn(role="user", text=CUPS),)
    record = Record(
        "row 1", "k", turns, (Media("image", data=PICTURE),), Reference("3"), split=said
    )
    found = convert(record, LOADER, Defaults("test"))
    assert isinstance(found, Good) and found.sample.split == split


questions = st.sampled_from(
    [OPTIONS, CUPS, DISC, ROOM, "Is it on?", "How far is it in meters?", "When is it held?", "What are the steps?",
     "What is written there?", "Which?", "How tall is it?", "它是什么？"]
)  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(st.lists(words, min_size=1, max_size=6), st.sampled_from([" ", "", ", "]), questions)
def test_any_source_earns_1_or_is_left_out(parts: list[str], between: str, question: str) -> None:
    value = between.join(parts)
    found = imported(value, question)
    if isinstance(found, Bad):
        assert found.code in ("answer", "not_finite", "answer_missing") and found.reason
    elif found.sample.answer.kind != "open":
        for reply in (value, f"<answer>{value}</answer>"):
            assert score(found.sample, reply, RewardConfig()).task == 1, found.sample.answer
