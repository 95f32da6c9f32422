"""Points and boxes in the notations of several models, as a reply names them."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pelican.records import BoxAnswer, PointsAnswer, Scale
from pelican.rewards.base import Unscorable
from pelican.rewards.coordinates import Box, Point, find_regions, parse_box, parse_points
from tests.hostile import ends_at_once
from tests.rewards.samples import graded, rectangle

# A reply, the grid that was asked for, and the points on that grid.
POINTS: list[tuple[str, Scale, list[Point]]] = [
    # Molmo: percent
    ('<point x="60.0" y="40.0" alt="disc">disc</point>', 1, [(0.6, 0.4)]),
    ('<point x="60.0" y="40.0" alt="disc">disc</point>', 100, [(60, 40)]),
    ('<point x="60.0" y="40.0" alt="disc 3 (2, 1)">disc [1, 2]</point>', 1000, [(600, 400)]),
    ("<point x='60.0' y='40.0' alt='disc'>", 1000, [(600, 400)]),
    ('<point x="600" y="400">disc</point>', 1000, [(600, 400)]),  # no percent: the asked grid
    ('<points x1="60.0" y1="40.0" x2="61" y2="41.0" alt="d">d</points>', 1, [(0.6, 0.4), (0.61, 0.41)]),
    ('Two. <points x1="60" y1="40" x2="61" y2="41">d</points>', 1000, [(600, 400), (610, 410)]),
    ('<point p="600,400" alt="disc">disc</point>', 100, [(60, 40)]),
    ('<points 1="600,400" 2="100,050" alt="d">d</points>', 100, [(60, 40), (10, 5)]),
    ('<points coords="1 1 600 400 2 100 050" alt="d">d</points>', 100, [(60, 40), (10, 5)]),
    ('<points coords="1 1 600 400;2 1 100 050"/>', 1000, [(600, 400), (100, 50)]),
    # Gemini: y, x in thousandths
    ('[{"point": [400, 600], "label": "disc"}]', 1, [(0.6, 0.4)]),
    ('[{"point": [400, 600], "label": "disc (7, 7)"}]', 1000, [(600, 400)]),
    ('```json\n[{"point": [400, 600]}, {"point": [50, 100]}]\n```', 100, [(60, 40), (10, 5)]),
    ("{'point': (400, 600)}", 1000, [(600, 400)]),
    ('{"point": [40, 60]}', 100, [(60, 40)]),  # the asked grid holds them
    # Qwen: x, y on the asked grid
    ('{"point_2d": [600, 400], "label": "disc"}', 1000, [(600, 400)]),
    ('```json\n[\n\t{"point_2d": [60, 40], "label": "disc"}\n]\n```', 100, [(60, 40)]),
    ("point_2d: [600, 400]", 1000, [(600, 400)]),
    ('{"points": [{"x": 60, "y": 40}, {"x": 1.5, "y": 2}]}', 100, [(60, 40), (1.5, 2)]),
    ('{"points": [[60, 40], [1, 2]]}', 100, [(60, 40), (1, 2)]),
    ("<|box_start|>(600,400)<|box_end|>", 100, [(60, 40)]),  # one corner is a point (UI-TARS)
    ("<|point_start|>(60,40)<|point_end|>", 100, [(60, 40)]),
    ("<point>60 40</point>", 100, [(60, 40)]),
    ("<point>[[60, 40]]</point>", 100, [(60, 40)]),
    # percent, names, several groups
    ("(60%, 40%)", 1, [(0.6, 0.4)]),
    ("60 %, 40 %", 1000, [(600, 400)]),
    ("(60, 40)%", 1000, [(600, 400)]),
    ("x: 60, y: 40", 100, [(60, 40)]),
    ("(x=60, y=40)", 100, [(60, 40)]),
    ("(x, y) = (60, 40)", 100, [(60, 40)]),
    ("(x1, y1) = (60, 40)", 100, [(60, 40)]),
    ("[(.6, 4e-1), (1., +0)]", 1, [(0.6, 0.4), (1, 0)]),
    # pixels of a picture of 640 x 480
    ("[320, 240]", (640, 480), [(320, 240)]),
    ('<point x="50" y="50">a</point>', (640, 480), [(320, 240)]),
    ('{"point": [500, 800]}', (640, 480), [(512, 240)]),
]  # fmt: skip


@pytest.mark.parametrize(("reply", "scale", "points"), POINTS)
def test_points_in_every_notation(reply: str, scale: Scale, points: list[Point]) -> None:
    assert [pytest.approx(p) for p in points] == parse_points(reply, scale)


BOXES: list[tuple[str, Scale, Box]] = [
    ("<|box_start|>(100,300),(350,800)<|box_end|>", 1000, (100, 300, 350, 800)),
    (
        "<|object_ref_start|>block (2)<|object_ref_end|><|box_start|>(100,300),(350,800)<|box_end|>",
        100,
        (10, 30, 35, 80),
    ),
    ("<ref>red block</ref><box>(100,300),(350,800)</box>", 1000, (100, 300, 350, 800)),
    ("<ref>red block</ref><box>[[100, 300, 350, 800]]</box>", 1, (0.1, 0.3, 0.35, 0.8)),
    ("<box>[[100, 300], [350, 800]]</box>", 1000, (100, 300, 350, 800)),
    ("<box>100 300 350 800</box>", 1000, (100, 300, 350, 800)),
    ("<box>(10, 30), (35, 80)</box>", 100, (10, 30, 35, 80)),  # the asked grid holds them
    ("<bbox>10, 30, 35, 80</bbox>", 100, (10, 30, 35, 80)),
    ('{"box_2d": [300, 100, 800, 350], "label": "block"}', 100, (10, 30, 35, 80)),
    ('```json\n[{"box_2d": [300, 100, 800, 350]}]\n```', 1000, (100, 300, 350, 800)),
    ('[{"bbox_2d": [100, 300, 350, 800], "label": "b"}]', 1000, (100, 300, 350, 800)),
    ('{"bbox": [[10, 30], [35, 80]]}', 100, (10, 30, 35, 80)),
    ('{"x1": 100, "y1": 300, "x2": 350, "y2": 800}', 1000, (100, 300, 350, 800)),
    ("x1=100, y1=300, x2=350, y2=800", 1000, (100, 300, 350, 800)),
    ('{"xmin": 10, "ymin": 30, "xmax": 35, "ymax": 80}', 100, (10, 30, 35, 80)),
    ('{"x_min": 10, "y_min": 30, "x_max": 35, "y_max": 80}', 100, (10, 30, 35, 80)),
    ('{"left": 10, "top": 30, "width": 25, "height": 50}', 100, (10, 30, 35, 80)),
    ('{"x": 10, "y": 30, "w": 25, "h": 50, "label": "b"}', 100, (10, 30, 35, 80)),
    ("[10%, 30%, 35%, 80%]", 1000, (100, 300, 350, 800)),
    ("(100, 300) to (350, 800)", 1000, (100, 300, 350, 800)),
    ("[64, 144, 224, 384]", (640, 480), (64, 144, 224, 384)),
    ("<box>(100,300),(350,800)</box>", (640, 480), (64, 144, 224, 384)),
]


@pytest.mark.parametrize(("reply", "scale", "box"), BOXES)
def test_boxes_in_every_notation(reply: str, scale: Scale, box: Box) -> None:
    assert parse_box(reply, scale) == pytest.approx(box)


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("<box>(20, 20), (60, 60)</box>", "refused"),  # a box where points are asked
        ('{"bbox_2d": [20, 20, 60, 60]}', "refused"),
        ('{"bbox_2d": [20, 20, 60, 60], "point_2d": [30, 40]}', "refused"),
        ('<points coords="1 600">d</points>', "unreadable"),
        ('<point x="left" y="top">d</point>', "unreadable"),
        ('{"point": [400, 600, 1]}', "unreadable"),
        ("(nan, 40)", "unreadable"),
        ("(1e999, 40)", "unreadable"),
        ("(x1, y1)", "unreadable"),
        ("(300px, 40px)", "unreadable"),
    ],
)
def test_what_is_no_point(reply: str, reason: str) -> None:
    with pytest.raises(Unscorable) as caught:
        parse_points(reply, 100)
    assert caught.value.reason.startswith(reason)


def test_two_boxes_are_several_answers() -> None:
    for reply in (
        "<box>[[1, 2, 3, 4], [5, 6, 7, 8]]</box>",
        '[{"box_2d": [1, 2, 3, 4]}, {"box_2d": [5, 6, 7, 8]}]',
    ):
        with pytest.raises(Unscorable, match="several answers"):
            parse_box(reply, 1000)


def test_the_reward_reads_them() -> None:
    points = PointsAnswer(mask=rectangle(20, 10, 60, 30), scale=1000)  # 0.2 to 0.6 on both sides
    assert graded(points, '<point x="30" y="40" alt="a">a</point>').task == 1
    assert graded(points, '[{"point": [550, 300]}, {"point": [300, 650]}]').task == 0.5
    pixels = PointsAnswer(mask=rectangle(20, 10, 60, 30), scale=(640, 480))
    assert graded(pixels, "[320, 240], [100, 240]").task == 0.5
    assert graded(pixels, "[320, 500]").task == 0  # below the picture, not beside it
    box = BoxAnswer(box=(64, 144, 224, 384), scale=(640, 480))
    assert graded(box, '{"bbox_2d": [64, 144, 224, 384]}').task == 1
    assert graded(box, '{"box_2d": [300, 100, 800, 350]}').task == pytest.approx(1)


NUMBER = st.integers(0, 999)
WRITTEN = {
    "molmo": lambda x, y: f'<point x="{x / 10:.1f}" y="{y / 10:.1f}" alt="a">a</point>',
    "gemini": lambda x, y: f'[{{"point": [{y}, {x}], "label": "a"}}]',
    "qwen3": lambda x, y: f'{{"point_2d": [{x}, {y}]}}',
    "percent": lambda x, y: f"({x / 10}%, {y / 10}%)",
    "tuple": lambda x, y: f"({x}, {y})",
}


@given(NUMBER, NUMBER, st.sampled_from(sorted(WRITTEN)))
@settings(max_examples=200)
def test_one_place_is_the_same_in_every_notation(x: int, y: int, name: str) -> None:
    assert parse_points(WRITTEN[name](x, y), 1000) == [pytest.approx((x, y))]


HOSTILE = [
    *"<([{x1.,\"%:= \npb_eE-+ny>&|'",
    "<point ",
    '"point":[',
    '<points x1="',
    "<box>",
    "<ref>",
    "x1=",
    "point_2d:",
    "(1,",
    "1 ",
    "coords='",
]


@pytest.mark.parametrize("part", HOSTILE)
def test_long_texts_take_no_time(part: str) -> None:
    text = (part * 8000)[:8000]

    def find() -> None:
        for one in (text, f"<point x={text}", f'"point": [{text}', f"({text})"):
            with suppress(Unscorable):
                find_regions(one)

    assert ends_at_once(find)
