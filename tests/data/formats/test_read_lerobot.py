"""LeRobot's language columns, and the camera that is asked about."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pelican.data.formats.lerobot import _size
from pelican.errors import UserInputError
from tests.data.formats.layouts import FRONT, lerobot
from tests.data.formats.world import Outcome, brief, imported


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("lerobot") / "so100"
    lerobot(root)
    return root


def answers(found: Outcome) -> dict[str, tuple[str, str]]:
    return {
        id.removeprefix("so100/ep0/"): brief(s)[:2]
        for id, s in found.samples.items()
        if "ep0" in id
    }


def test_language_columns_become_questions(source: Path, tmp_path: Path) -> None:
    found = imported(source, tmp_path / "pool")
    steps = "reach the cup > grasp the cup > place the cup"
    said = answers(found)
    next_step, interval = said.pop("next_step"), said.pop("interval")
    assert said == {
        "task": ("choice", "A of 2"),  # the same task in other words is no wrong option
        "order": ("order", steps),
        "plan": ("steps", steps),
        "vqa/0": ("count", "2"),
        "vqa/1": ("text", "red"),
        "vqa/2": ("points", "mask 64x48 scale 1000"),
        "vqa/3": ("box", "(250.0, 250.0, 500.0, 500.0) scale 1000"),
    }
    assert next_step[0] == "choice"
    assert interval[1] in ("0 to 2", "2 to 4", "4 to 6")
    assert found.bad == {"ep0/9": "answer", "ep0/10": "schema"}
    assert "2 boxes" in found.reasons["ep0/9"] and "camera" in found.reasons["ep0/10"]


def test_a_question_of_one_frame_shows_that_frame_of_its_camera(
    source: Path, tmp_path: Path
) -> None:
    found = imported(source, tmp_path / "pool")
    # Frame 3 of both; the cameras' videos start at 0 and at 40, 5 more a frame.
    for name, grey in (("vqa/0", 15), ("vqa/1", 55)):
        sample = found.samples[f"so100/ep0/{name}"]
        assert (sample.media_kind, len(sample.images)) == ("image", 1)
        pixels = np.asarray(Image.open(io.BytesIO(sample.images[0])).convert("L"))
        assert abs(float(np.median(pixels)) - grey) < 4


def brightness(found: Outcome, name: str) -> float:
    image = Image.open(io.BytesIO(found.samples[f"so100/{name}"].images[0])).convert("L")
    return float(np.median(np.asarray(image)))


@pytest.mark.parametrize(
    ("wish", "questions", "grey"),
    [("wrist", {"vqa/1"}, 190), (FRONT, {"vqa/0", "vqa/2", "vqa/3"}, 150)],
)
def test_one_camera_is_chosen_by_its_name(
    wish: str, questions: set[str], grey: float, source: Path, tmp_path: Path
) -> None:
    found = imported(source, tmp_path / "pool", columns=(f"video={wish}",))
    assert {name for name in answers(found) if name.startswith("vqa")} == questions
    assert abs(brightness(found, "ep1/task") - grey) < 4  # of the thirtieth frame of its video


def test_several_cameras_are_asked_about_alike(source: Path, tmp_path: Path) -> None:
    found = imported(source, tmp_path / "pool", columns=("video=front,wrist",))
    assert {"task/front", "task/wrist", "order/front", "order/wrist"} <= answers(found).keys()
    assert abs(brightness(found, "ep0/task/front") - brightness(found, "ep0/task/wrist")) > 30
    every = imported(source, tmp_path / "every", columns=("video=all",))
    assert answers(every) == answers(found)


def test_a_camera_that_is_not_there_is_one_sentence(source: Path, tmp_path: Path) -> None:
    with pytest.raises(UserInputError, match=r"has no camera 'top'; it has .*wrist, .*front"):
        imported(source, tmp_path / "pool", columns=("video=top",))


@pytest.mark.parametrize(
    "names", [["height", "width", "channels"], None, {"axes": ["height", "width", "channels"]}]
)
def test_the_size_of_a_camera_s_pictures(names: object) -> None:
    assert _size({"shape": [48, 64, 3], "names": names}) == (64, 48)
    assert _size({"shape": [3, 48, 64]}) == (64, 48)
