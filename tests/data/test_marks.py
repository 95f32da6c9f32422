"""Marks that stand for something else of the row: filled from it, or the row is left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pelican.data.formats.base import Media, Objects, Record, Reference
from pelican.data.importing.marks import GRID, fill_marks
from pelican.data.importing.regions import grid_sentence
from pelican.data.tables import RowError
from pelican.records import BoxAnswer, PointsAnswer, Turn
from pelican.rewards.score import scorer_of
from tests.data.formats.world import image, imported, write_json
from tests.hostile import ends_at_once

BOX, OTHER = [20, 50, 60, 110], [90, 20, 130, 60]


def row(name: str, asked: str, answer: str, **objects: Any) -> dict[str, Any]:
    return {
        "id": name,
        "images": ["im/0.png"],
        "objects": objects,
        "messages": [
            {"role": "user", "content": f"<image>{asked}"},
            {"role": "assistant", "content": answer},
        ],
    }


FIND = "Find the <ref-object> in this picture"
FILLED = [
    row("one", FIND, "<bbox>", ref=["red block"], bbox=[BOX]),
    row("shares", FIND, "<bbox>", ref=["red block"], bbox=[[0.125, 0.4167, 0.375, 0.9167]],
        bbox_type="norm1"),
    row("thousandths", FIND, "<bbox>", ref=["red block"], bbox=[[125, 417, 375, 917]],
        bbox_type="norm1000"),
    row("a hundred", "Find the <ref-object>. Coordinates go from 0 to 100.", "<bbox>",
        ref=["red block"], bbox=[BOX]),
    row("asked", "What is in <bbox>?", "<ref-object>", ref=["red block"], bbox=[BOX]),
    row("point", "Point at the <ref-object>", "<bbox>", ref=["red block"], bbox=[[40, 60]]),
    row("points", "Point at each <ref-object>", "<bbox><bbox>", ref=["block"],
        bbox=[[40, 60], [110, 40]]),
]  # fmt: skip
ONE = {"caption": "red block", "bbox": BOX, "bbox_type": "real", "image": 0}
OLD = [
    {**row("a list", FIND, "<bbox>"), "objects": [ONE]},
    {**row("a text", FIND, "<bbox>"), "objects": json.dumps([ONE])},
]  # as ms-swift 2 wrote them
LEFT_OUT = [
    (row("two", "Find each <ref-object>", "<bbox><bbox>", ref=["block"], bbox=[BOX, OTHER]),
     "answer", "2 boxes"),
    (row("empty", FIND, "<bbox>", ref=["red block"], bbox=[]), "media_marks", "<bbox>"),
    (row("no name", FIND, "<bbox>", bbox=[BOX]), "media_marks", "<ref-object>"),
    (row("outside", FIND, "<bbox>", ref=["red block"], bbox=[[20, 50, 600, 110]]), "answer",
     "outside"),
    (row("a unit", FIND, "<bbox>", ref=["red block"], bbox=[BOX], bbox_type="inch"), "answer",
     "'inch'"),
    (row("three", FIND, "<bbox>", ref=["red block"], bbox=[[1, 2, 3]]), "answer", "3 numbers"),
    (row("image", FIND, "<bbox>", ref=["red block"], bbox=[BOX], image_id=[3]), "answer", "image 3"),
    ({**row("other", FIND, "<bbox>"), "objects": [{"x": 1}]}, "media_marks", "<ref-object>"),
    ({**row("no json", FIND, "<bbox>"), "objects": "[{"}, "media_marks", "<ref-object>"),
    (row("words", FIND, "<bbox>", ref=["red block"], bbox=["left"]), "media_marks", "<ref-object>"),
    (row("sound", "What does <audio> say?", "go"), "media_marks", "<audio>"),
    (row("region", "What is <region1>?", "a cup"), "media_marks", "<region1>"),
    (row("segment", "Segment the cup.", "It is <seg>."), "media_marks", "<seg>"),
    (row("qwen 1", "<img>im/0.png</img> What is it?", "a cup"), "media_marks", "<img>"),
    (row("drawn", "Draw a cup.", "<image>"), "media_marks", "<image>"),
]  # fmt: skip


def test_marks_are_filled_from_the_objects_of_the_row(tmp_path: Path) -> None:
    root = tmp_path / "lab"
    image(root / "im" / "0.png", size=(160, 120))
    write_json(root / "rows.json", [*FILLED, *OLD, *(one for one, _, _ in LEFT_OUT)])
    found = imported(root, tmp_path / "pool")
    samples = {name.partition("/")[2]: sample for name, sample in found.samples.items()}
    assert set(samples) == {str(one["id"]) for one in (*FILLED, *OLD)}
    for name in ("one", "shares", "thousandths", "a list", "a text"):
        assert (
            samples[name].question == f"Find the red block in this picture\n{grid_sentence(GRID)}"
        )
        assert samples[name].answer == BoxAnswer(box=(125, 417, 375, 917), scale=1000)
    assert samples["a hundred"].answer == BoxAnswer(box=(12, 42, 38, 92), scale=100)
    assert samples["a hundred"].question == "Find the red block. Coordinates go from 0 to 100."
    assert samples["asked"].question == "What is in [125, 417, 375, 917]?"
    assert samples["asked"].answer.kind == "text"
    assert isinstance(samples["point"].answer, PointsAnswer)
    assert isinstance(samples["points"].answer, PointsAnswer)
    for sample in samples.values():
        scorer_of(sample)
        assert "<" not in sample.question
    assert found.bad == {str(one["id"]): code for one, code, _ in LEFT_OUT}
    for one, _, words in LEFT_OUT:
        assert words in found.reasons[str(one["id"])]


@pytest.mark.parametrize(
    "text",
    [
        "Is a < b?",
        "Put it into <box>(12, 30), (40, 50)</box>.",
        "Answer within <answer></answer>.",
        "What does <b>this</b> say?",
        "The <ref>cup</ref> is at <point>(3, 4)</point>.",
        "Which key is <enter>?",
    ],
)
def test_notations_and_other_brackets_are_no_marks(text: str) -> None:
    record = Record("", "", (Turn(role="user", text=text),), (), Reference(text))
    assert fill_marks(record, [(10, 10)]) is record


def test_boxes_are_of_the_image_that_they_name() -> None:
    record = Record(
        "",
        "",
        (Turn(role="user", text="Which is larger, <bbox> or <bbox>?"),),
        (Media("image", "a"), Media("image", "b")),
        Reference("A"),
        Objects(boxes=((10, 10, 20, 20), (10, 10, 20, 20)), images=(0, 1)),
    )
    filled = fill_marks(record, [(100, 100), (200, 50)])
    assert filled.turns[0].text == ("Which is larger, [100, 100, 200, 200] or [50, 200, 100, 400]?")


@pytest.mark.parametrize("text", ["<bbox>", "<", "<box>", "<ref>", "<object> ", "<img", "x<"])
def test_marks_are_looked_for_in_time_that_grows_with_the_text(text: str) -> None:
    turn = Turn(role="user", text=(text * 8000)[:20_000])

    def fill() -> None:
        try:
            fill_marks(Record("", "", (turn,), (), Reference("A")), [(10, 10)])
        except RowError as error:
            assert error.code == "media_marks"

    assert ends_at_once(fill)
