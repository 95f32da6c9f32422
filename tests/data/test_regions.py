"""Points and boxes of sources: which of the two an answer is, on which grid, and what is left out.

The property that holds for all: what the source says, written as a reply, earns 1.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pelican.data.formats.base import Reference
from pelican.data.importing.answers import read_answer
from pelican.data.importing.regions import find_notation, with_grid
from pelican.data.tables import RowError
from pelican.errors import UserInputError
from pelican.records import BoxAnswer, PointsAnswer
from pelican.rewards.masks import decode_mask
from tests.data.formats.world import image, imported, write_json
from tests.rewards.samples import graded

SIZE = (640, 480)
BOX = "Give the bounding box of the red block, on a grid of 0 to 1000."
QWEN2 = "<|box_start|>(100,300),(350,800)<|box_end|>"

BOXES: list[tuple[Any, str, str, tuple[float, ...], Any]] = [
    # the answer, the question, --notation, the box and its scale
    (QWEN2, BOX, "", (100, 300, 350, 800), 1000),
    ("<ref>red block</ref><box>(100,300),(350,800)</box>", BOX, "", (100, 300, 350, 800), 1000),
    ("(100,300),(350,800)", BOX, "", (100, 300, 350, 800), 1000),
    ('{"x1": 100, "y1": 300, "x2": 350, "y2": 800}', BOX, "", (100, 300, 350, 800), 1000),
    ("[100, 300, 350, 800]", BOX, "", (100, 300, 350, 800), 1000),
    ([100, 300, 350, 800], BOX, "", (100, 300, 350, 800), 1000),
    ([[100, 300], [350, 800]], BOX, "", (100, 300, 350, 800), 1000),
    ([{"bbox_2d": [100, 300, 350, 800], "label": "b"}], BOX, "", (100, 300, 350, 800), 1000),
    ({"bbox_2d": [100, 300, 350, 800], "label": "b"}, BOX, "", (100, 300, 350, 800), 1000),
    ("(350,800),(100,300)", BOX, "", (100, 300, 350, 800), 1000),
    ("From (100,300) to (350,800).", "Give the top-left and bottom-right corners, 0 to 1000.", "", (100, 300, 350, 800), 1000),
    ("(0.1, 0.3), (0.35, 0.8)", "Return the bbox as (x0, y0), (x1, y1).", "", (0.1, 0.3, 0.35, 0.8), 1),
    ("(100,300),(350,800)", "请给出红色方块的边界框，坐标为0到1000。", "", (100, 300, 350, 800), 1000),
    ("(100,300),(350,800)", "Give the two corners of the bounding box, 0 to 1000.", "", (100, 300, 350, 800), 1000),
    ("[100, 300, 350, 800]", "Give the bounding boxes of all cups, 0 to 1000.", "", (100, 300, 350, 800), 1000),
    ("[100, 300, 350, 800]", "Which of the two? Give its bounding box, 0 to 1000.", "", (100, 300, 350, 800), 1000),
    # the grid by the mark or the key
    (QWEN2, "Where is the red block?", "", (100, 300, 350, 800), 1000),
    (QWEN2, "Where is it, from 0 to 100?", "", (10, 30, 35, 80), 100),
    ("<ref>b</ref><box>[[100, 300, 350, 800]]</box>", "Where is <ref>b</ref>?", "", (100, 300, 350, 800), 1000),
    ('[{"box_2d": [300, 100, 800, 350], "label": "b"}]', "Detect it.", "", (100, 300, 350, 800), 1000),
    ("```json\n[{\"box_2d\": [300, 100, 800, 350]}]\n```", BOX, "", (100, 300, 350, 800), 1000),
    ("[10%, 30%, 35%, 80%]", "Box of it?", "", (10, 30, 35, 80), 100),
    # the grid by --notation
    ('{"bbox_2d": [100, 300, 350, 800]}', "Locate it, as JSON.", "qwen3-vl", (100, 300, 350, 800), 1000),
    ('{"bbox_2d": [64, 144, 224, 384]}', "Locate it, as JSON.", "qwen2.5-vl", (64, 144, 224, 384), (644, 476)),
    ([64, 144, 224, 384], "Locate it.", "pixels", (64, 144, 224, 384), (640, 480)),
    ([10, 30, 35, 80], "Locate it.", "percent", (10, 30, 35, 80), 100),
    ([100, 300, 350, 800], BOX, "pixels", (100, 300, 350, 800), 1000),  # the question goes first
]  # fmt: skip

POINTS: list[tuple[Any, str, str, int, Any]] = [
    # the answer, the question, --notation, how many points, their scale
    ("(100,300),(350,800)", "Where do the two screws sit? Use 0 to 1000.", "", 2, 1000),
    ([[100, 300], [350, 800]], "Point at both screws, 0-999.", "", 2, 1000),
    ("(100,300),(350,800)", "Point at the cups in the bounding box, 0 to 1000.", "", 2, 1000),
    ("(100, 300)", "Point at the centre of the bounding box, 0 to 1000.", "", 1, 1000),
    ('<point x="60.0" y="40.0" alt="disc">disc</point>', "Point at the disc.", "", 1, 100),
    ('<points x1="60.0" y1="40.0" x2="11.0" y2="41.0" alt="d">d</points>', "Where?", "", 2, 100),
    ('<points coords="1 1 600 400 2 110 410" alt="d">d</points>', "Where?", "", 2, 1000),
    ('```json\n[{"point": [400, 600], "label": "disc"}]\n```', "Point at it.", "", 1, 1000),
    ([{"point": [400, 600], "label": "disc"}, {"point": [1, 2]}], "Point.", "", 2, 1000),
    ('{"point_2d": [600, 400]}', "Point at it, in thousandths.", "", 1, 1000),
    ('{"point_2d": [600, 400]}', "Point at it.", "Qwen3_VL", 1, 1000),
    ("(60%, 40%)", "Where is it?", "", 1, 100),
    ("(60, 40)", "Point at it, in percent of width and height.", "", 1, 100),
    ("[(0.6, 0.4)]", "Point at it; normalised between 0.0 and 1.0.", "", 1, 1),
    ("(600, 400)", "Point on a 1000x1000 grid.", "", 1, 1000),
]


def read(value: Any, question: str, notation: str) -> PointsAnswer | BoxAnswer:
    reference = Reference(value, notation=find_notation(notation))
    answer = read_answer(reference, question, SIZE)
    assert isinstance(answer, PointsAnswer | BoxAnswer)
    return answer


def said(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


@pytest.mark.parametrize(("value", "question", "notation", "box", "scale"), BOXES)
def test_boxes_are_read_and_earn_1(
    value: Any, question: str, notation: str, box: tuple[float, ...], scale: Any
) -> None:
    answer = read(value, question, notation)
    assert isinstance(answer, BoxAnswer)
    assert answer.box == pytest.approx(box) and answer.scale == scale
    assert graded(answer, said(value)).task == 1


@pytest.mark.parametrize(("value", "question", "notation", "count", "scale"), POINTS)
def test_points_are_read_and_earn_1(
    value: Any, question: str, notation: str, count: int, scale: Any
) -> None:
    answer = read(value, question, notation)
    assert isinstance(answer, PointsAnswer) and answer.scale == scale
    score = graded(answer, said(value))
    assert score.task == 1 and score.answer.count("(") == count


LEFT_OUT: list[tuple[Any, str, str, str]] = [
    ("(100,300),(350,800)", "Give both bounding boxes, from 0 to 1000.", "", "several boxes"),
    ("(100,300),(350,800)", "Give the bounding boxes of all cups, 0 to 1000.", "", "several boxes"),
    (QWEN2, "Give both bounding boxes, from 0 to 1000.", "", "the answer has one"),
    ("(100,300),(350,800)", "Give the bounding box of each cup, 0 to 1000.", "", "several boxes"),
    ("<box>[[1, 2, 3, 4], [5, 6, 7, 8]]</box>", "Find both.", "", "no kind of answer holds several"),
    ('[{"box_2d": [1, 2, 3, 4]}, {"point": [5, 6]}]', "Find both.", "", "no kind of answer"),
    ([{"bbox_2d": [100, 300, 350, 800]}], "Locate it, as JSON.", "", "names no grid"),
    ({"point_2d": [600, 400]}, "Point at it.", "", "names no grid"),
    ("(120, 40)", "Point at it.", "", "say --notation"),
    (QWEN2, "Where is it?", "pixels", "the answer's marks mean 0 to 1000"),
    ([0.4, 0.4, 0.1, 0.1], "Box?", "", "not width and height"),
    ([700, 100, 720, 200], "Box?", "pixels", "outside its frame of 640 x 480"),
    ("(1, 2, 3)", "Where, 0 to 100?", "", "a box four"),
    ([[i, i] for i in range(11)], "Point at all, 0 to 100.", "", "11 points"),
    ('{"point": [NaN, 0.5]}', "Where?", "", "without end"),
]  # fmt: skip


@pytest.mark.parametrize(("value", "question", "notation", "reason"), LEFT_OUT)
def test_what_is_left_out_says_why(value: Any, question: str, notation: str, reason: str) -> None:
    with pytest.raises(RowError) as caught:
        read(value, question, notation)
    assert reason in caught.value.reason and len(caught.value.reason) < 200


def test_an_unknown_notation_names_the_known_ones() -> None:
    with pytest.raises(UserInputError, match=r"--notation is 'gemini2'; it takes shares, percent"):
        find_notation("gemini2")


# The pictures that Qwen2.5-VL's processor makes, with factor 28 and its published bounds.
@pytest.mark.parametrize(
    ("size", "resized"),
    [((640, 480), (644, 476)), ((4000, 3000), (1148, 840)), ((20, 20), (56, 56)), ((56, 84), (56, 84))],
)  # fmt: skip
def test_the_size_of_a_picture_as_qwen2_5_vl_sees_it(
    size: tuple[int, int], resized: tuple[int, int]
) -> None:
    answer = read_answer(Reference([1, 2, 13, 14], notation="qwen2.5-vl"), "Locate it.", size)
    assert isinstance(answer, BoxAnswer) and answer.scale == resized


def test_a_question_tells_the_grid_that_only_the_answer_told() -> None:
    for value, notation, told in (
        (QWEN2, "", "Where?\nCoordinates run from 0 to 1000 on both sides of the picture."),
        ([64, 144, 224, 384], "pixels", "Where?\nCoordinates are pixels of the picture at 640 x 480."),
        ([0.1, 0.2, 0.3, 0.4], "", "Where?"),
    ):  # fmt: skip
        answer = read(value, "Where?", notation)
        assert with_grid("Where?", answer, Reference(value, notation=notation)) == told
    known = BoxAnswer(box=(1, 2, 3, 4))
    assert with_grid("Where?", known, Reference(kind="pelican")) == "Where?"
    assert with_grid("Where?", known, Reference(scale=100)) == "Where?"
    assert with_grid(BOX, read(QWEN2, BOX, ""), Reference(QWEN2)) == BOX


WRITE = {
    "molmo": lambda p: "<points " + " ".join(f'x{i}="{x / 10}" y{i}="{y / 10}"' for i, (x, y) in enumerate(p, 1)) + ' alt="a 3">a</points>',
    "gemini": lambda p: "```json\n" + json.dumps([{"point": [y, x], "label": "a [1]"} for x, y in p]) + "\n```",
    "qwen3": lambda p: json.dumps([{"point_2d": [x, y], "label": "a"} for x, y in p]),
    "tuples": lambda p: "[" + ", ".join(f"({x}, {y})" for x, y in p) + "]",
    "lists": lambda p: json.dumps([list(one) for one in p]),
    "marks": lambda p: "".join(f"<|box_start|>({x},{y})<|box_end|>" for x, y in p),
    "percent": lambda p: ", ".join(f"({x / 10}%, {y / 10}%)" for x, y in p),
}  # fmt: skip
PLACE = st.tuples(st.integers(0, 1000), st.integers(0, 1000))
SIZES = st.tuples(st.integers(4, 2000), st.integers(4, 2000))
ASK = ("Point at them.", "Point, 0 to 1000.", "Point, 0 to 100.", "Point, from 0 to 1.")


@given(
    st.lists(PLACE, min_size=1, max_size=10),
    SIZES,
    st.sampled_from(sorted(WRITE)),
    st.sampled_from(ASK),
)
@settings(max_examples=300, deadline=None)
def test_what_a_source_points_at_earns_1_or_is_left_out(
    places: list[tuple[int, int]], size: tuple[int, int], name: str, question: str
) -> None:
    text = WRITE[name](places)
    try:
        answer = read_answer(Reference(text), question, size)
    except RowError as error:
        assert name in ("qwen3", "tuples", "lists") and error.code == "answer"
        return
    assert answer.kind == "points" and graded(answer, text).task == 1
    assert decode_mask(answer.mask).any()


@given(
    PLACE,
    PLACE,
    st.sampled_from(["<box>({},{}),({},{})</box>", "[{}, {}, {}, {}]", "({}, {}), ({}, {})"]),
)
@settings(max_examples=200, deadline=None)
def test_what_a_source_frames_earns_1_or_is_left_out(
    a: tuple[int, int], b: tuple[int, int], form: str
) -> None:
    text = form.format(*a, *b)
    try:
        answer = read_answer(Reference(text), BOX, SIZE)
    except RowError:
        assert a[0] >= b[0] or a[1] >= b[1]
        return
    assert answer.kind == "box" and graded(answer, text).task == 1


def test_boxes_by_two_corners_are_imported(tmp_path: Path) -> None:
    root = tmp_path / "src"
    image(root / "im" / "0.png")
    forms = {
        "qwen2": QWEN2,
        "qwen-vl": "<ref>red block</ref><box>(100,300),(350,800)</box>",
        "bare": "(100,300),(350,800)",
        "named": '{"x1": 100, "y1": 300, "x2": 350, "y2": 800}',
        "four": "[100, 300, 350, 800]",
    }
    asked = {name: (BOX, answer) for name, answer in forms.items()}
    asked["screws"] = ("Where do the two screws sit? Use 0 to 1000.", forms["bare"])
    asked["both"] = ("Give both bounding boxes, on a grid of 0 to 1000.", forms["bare"])
    asked["bbox"] = ("Locate the red block, as JSON.", '{"bbox_2d": [10, 20, 30, 40]}')
    rows = [
        {
            "id": name,
            "images": ["im/0.png"],
            "messages": [
                {"role": "user", "content": f"<image>{question}"},
                {"role": "assistant", "content": answer},
            ],
        }
        for name, (question, answer) in asked.items()
    ]
    write_json(root / "rows.json", rows)
    found = imported(root, tmp_path / "pool")
    kinds = {name.removeprefix("src/"): s.answer for name, s in found.samples.items()}
    box = BoxAnswer(box=(100, 300, 350, 800), scale=1000)
    assert {name: kinds[name] for name in forms} == dict.fromkeys(forms, box)
    assert kinds["screws"].kind == "points"
    assert found.bad == {"both": "answer", "bbox": "answer"}
    found = imported(root, tmp_path / "said", notation="pixels")
    assert found.samples["src/bbox"].answer == BoxAnswer(box=(10, 20, 30, 40), scale=(64, 48))
    assert found.samples["src/bbox"].question.endswith("pixels of the picture at 64 x 48.")
