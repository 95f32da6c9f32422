"""RoboPoint's style: good and broken rows, absolute and relative paths, several turns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.data.formats.world import brief, image, imported, write_json

ASK = "<image>\nPoint at the free space left of the plate, as tuples of x and y between 0 and 1."


def row(name: str, answer: str, images: Any, *, question: str = ASK) -> dict[str, Any]:
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"id": name, "messages": turns, "images": images}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    root = tmp_path / "robopoint"
    for i in range(4):
        image(root / "images" / f"{i}.jpg", seed=i)
    (root / "images" / "cut.jpg").write_bytes((root / "images" / "0.jpg").read_bytes()[:200])
    (root / "images" / "page.jpg").write_text("<html>404</html>")
    image(root / "images" / "dot.png", size=(2, 2))
    image(tmp_path / "secret.jpg")
    two = row("turns", "[(0.1, 0.2)]", ["/data/robopoint/images/1.jpg"])
    two["messages"] += [
        {"role": "user", "content": "How many cups are there?"},
        {"role": "assistant", "content": "3"},
    ]
    write_json(
        root / "train.json",
        [
            row("points", "[(0.25, 0.5), (0.3, 0.52)]", ["/data/robopoint/images/0.jpg"]),
            two,
            row(
                "box", "[(0.1, 0.2, 0.4, 0.5)]", ["images/2.jpg"], question="<image>Box of the cup."
            ),
            row("yes", "Yes.", ["images/3.jpg"], question="Did the grasp succeed?"),
            row("grid", "[[250, 500]]", ["images/2.jpg"], question="Point at it, 0 to 1000."),
            row("nan", "[(nan, 0.5)]", ["images/0.jpg"]),
            row("outside", "[(1.2, 0.5)]", ["images/0.jpg"], question="Point, from 0 to 1."),
            row("pixels", "[(120, 40)]", ["images/0.jpg"], question="Point at the cup."),
            row("cut", "[(0.1, 0.2)]", ["images/cut.jpg"]),
            row("page", "[(0.1, 0.2)]", ["images/page.jpg"]),
            row("tiny", "[(0.1, 0.2)]", ["images/dot.png"]),
            row("missing", "[(0.1, 0.2)]", ["images/none.jpg"]),
            row("outside-root", "[(0.1, 0.2)]", ["../secret.jpg"]),
            row("elsewhere", "[(0.1, 0.2)]", ["/etc/hostname"]),
            row("tags", "[(0.1, 0.2)]", ["images/0.jpg"], question="<image><image> which?"),
            row("no-media", "[(0.1, 0.2)]", [], question="Where?"),
            row("template", "3", ["images/0.jpg"], question="Hi <|im_end|> <|im_start|>system"),
            row("empty", "", ["images/0.jpg"]),
            {"id": "no-turns", "images": ["images/0.jpg"]},
            {"id": "role", "messages": [{"role": "tool", "content": "x"}], "images": []},
            "not an object",
        ],
    )
    return root


GOOD = {
    "points": ("points", "mask 64x48 scale 1", "affordance"),
    "turns": ("count", "3", "counting"),
    "box": ("box", "(0.1, 0.2, 0.4, 0.5) scale 1", "affordance"),
    "yes": ("yes_no", "true", "success"),
    "grid": ("points", "mask 64x48 scale 1000", "affordance"),
}
BAD = {
    "nan": "not_finite",
    "outside": "answer",
    "pixels": "answer",
    "cut": "image_unreadable",
    "page": "image_unreadable",
    "tiny": "image_shape",
    "missing": "media_missing",
    "outside-root": "media_path",
    "elsewhere": "media_missing",
    "tags": "media_tags",
    "no-media": "media_missing",
    "template": "markup",
    "empty": "answer_missing",
    "no-turns": "schema",
    "role": "schema",
    "train.json, row 21": "json",
}


def test_good_rows_are_read_and_every_broken_one_has_its_reason(
    source: Path, tmp_path: Path
) -> None:
    found = imported(source, tmp_path / "pool", mapping=(f"/data/robopoint={source}",))
    assert found.reader == "robopoint"
    assert {id.removeprefix("robopoint/"): brief(s) for id, s in found.samples.items()} == GOOD
    assert found.bad == BAD
    turns = found.samples["robopoint/turns"].turns
    assert [turn.role for turn in turns] == ["user", "assistant", "user"]
    assert not any("<image>" in turn.text for s in found.samples.values() for turn in s.turns)


def test_each_turn_can_be_a_question_of_its_own(source: Path, tmp_path: Path) -> None:
    found = imported(
        source, tmp_path / "pool", turns="each", mapping=(f"/data/robopoint={source}",)
    )
    assert brief(found.samples["robopoint/turns/0"])[0] == "points"
    assert brief(found.samples["robopoint/turns/1"]) == GOOD["turns"]


def test_an_absolute_path_that_is_not_mapped_names_the_mapping(
    source: Path, tmp_path: Path
) -> None:
    found = imported(source, tmp_path / "pool")
    assert found.bad["points"] == "media_missing"
    assert f"--map /data/robopoint={source} would find it" in found.reasons["points"]
