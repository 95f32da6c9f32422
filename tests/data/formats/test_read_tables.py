"""Parquet, Hugging Face data sets, lmms-eval task folders, Pelican's own pools, LeRobot v3."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pelican.base.parse import parse_json
from pelican.errors import UserInputError
from pelican.records import ChoiceAnswer
from tests.data.factory import clip, sample, write_pool
from tests.data.formats.world import brief, draw, image, imported, video, write_json


def png(seed: int) -> bytes:
    out = io.BytesIO()
    draw(seed).save(out, "PNG")
    return out.getvalue()


def table(rows: list[dict[str, Any]], path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def picture(seed: int) -> dict[str, Any]:
    return {"bytes": png(seed), "path": None}


ROWS = [
    {"question": "How many cups?", "answer": "3", "choices": None, "image": picture(0)},
    {"question": "Which is left?", "answer": "1", "choices": ["cup", "bowl"], "image": picture(1)},
    {"question": "Which?", "answer": "9", "choices": ["cup", "bowl"], "image": picture(2)},
    {"question": "", "answer": "3", "choices": None, "image": picture(3)},
    {"question": "Colour?", "answer": None, "choices": None, "image": picture(4)},
    {"question": "Colour?", "answer": "red", "choices": None,
     "image": {"bytes": png(5)[:99], "path": None}},
]  # fmt: skip
EXPECTED = {"answer": 1, "schema": 1, "answer_missing": 1, "image_unreadable": 1}


def codes(bad: dict[str, str]) -> dict[str, int]:
    return {code: list(bad.values()).count(code) for code in bad.values()}


def test_choices_as_objects(tmp_path: Path) -> None:
    """By letters, of which Parquet fills what a row lacks with null; and texts beside their labels."""
    root = tmp_path / "source"
    lettered = [
        {"A": "cup", "B": "bowl"},
        {"A": "cup", "B": "jug", "C": "can"},
        {"A": "cup", "C": "can"},
    ]
    rows = [
        {"question": "Which?", "answer": "B", "choices": choices, "image": picture(i)}
        for i, choices in enumerate(lettered)
    ]
    table(rows, root / "letters.parquet")
    rows = [
        {"question": "Which?", "answer": answer, "image": picture(i),
         "choices": {"label": labels, "text": ["cup", "bowl", "jug"]}}
        for i, (answer, labels) in enumerate([("B", ["A", "B", "C"]), ("2", ["1", "2", "3"])], 3)
    ]  # fmt: skip
    table(rows, root / "labels.parquet")
    found = imported(root, tmp_path / "pool")
    assert sorted(brief(s)[:2] for s in found.samples.values()) == [
        ("choice", "B of 2"), *[("choice", "B of 3")] * 3
    ]  # fmt: skip
    assert ["choice 2 of 3 is empty" in reason for reason in found.reasons.values()] == [True]
    options = {s.answer.options for s in found.samples.values()}
    assert options == {("cup", "bowl"), ("cup", "jug", "can"), ("cup", "bowl", "jug")}


def test_parquet_with_guessed_columns_and_a_file_that_is_cut(tmp_path: Path) -> None:
    root = tmp_path / "vqa"
    table(ROWS, root / "a.parquet")
    (root / "b.parquet").write_bytes((root / "a.parquet").read_bytes()[:-50])
    found = imported(root, tmp_path / "pool")
    assert found.reader == "parquet"
    assert sorted(brief(s)[:2] for s in found.samples.values()) == [
        ("choice", "B of 2"),
        ("count", "3"),
    ]
    assert codes(found.bad) == {**EXPECTED, "file": 1}


def test_columns_can_be_named(tmp_path: Path) -> None:
    row = {"utterance": "How many?", "gold": 2, "rgb": picture(0)}
    path = table([row], tmp_path / "odd.parquet")
    with pytest.raises(UserInputError, match="no reader recognises"):
        imported(path, tmp_path / "pool")
    found = imported(path, tmp_path / "pool", columns=("question=utterance", "answer=gold"))
    assert [brief(s)[:2] for s in found.samples.values()] == [("count", "2")]


def test_a_pool_comes_back_as_it_was(tmp_path: Path) -> None:
    samples = [sample(0), clip(1, [0.0, 8.0, 16.0]), sample(2, split="dev")]
    write_pool(tmp_path / "old", samples)
    found = imported(tmp_path / "old", tmp_path / "new")
    for before in samples:
        after = found.samples[f"test/{before.id}"]
        changed = {"id": after.id}
        assert before.model_copy(update=changed) == after


def test_a_data_set_that_save_to_disk_wrote(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = [row for row in ROWS if row["choices"] is None and row["answer"]]
    features = datasets.Features(
        {"question": datasets.Value("string"), "answer": datasets.Value("string"),
         "image": datasets.Image()}
    )  # fmt: skip
    kept = [{k: row[k] for k in features} for row in rows]
    datasets.DatasetDict(
        {"test": datasets.Dataset.from_list(kept, features=features)}
    ).save_to_disk(tmp_path / "set")
    found = imported(tmp_path / "set", tmp_path / "pool")
    assert found.reader == "hf"
    assert [(brief(s)[:2], s.split.value) for s in found.samples.values()] == [
        (("count", "3"), "test")
    ]
    assert codes(found.bad) == {"schema": 1, "image_unreadable": 1}


def test_an_lmms_eval_task_is_read_and_none_of_its_code_is_run(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    root = tmp_path / "task"
    row = {"q": "How many cups are left?", "gold": "2", "image": picture(0)}
    table([row, {**row, "q": "", "image": picture(1)}], root / "data" / "test.parquet")
    (root / "robot.yaml").write_text(
        "dataset_path: data\ntask: robot_count\ntest_split: test\noutput_type: generate_until\n"
        "doc_to_visual: !function utils.visual\n"
        'doc_to_text: "{{q}}"\ndoc_to_target: gold\n'
    )
    (root / "utils.py").write_text("raise SystemExit('this was run')\n")
    found = imported(root, tmp_path / "pool")
    assert found.reader == "lmms_eval"
    only = next(iter(found.samples.values()))
    assert (brief(only)[:2], only.benchmark, only.split.value) == (
        ("count", "2"),
        "robot_count",
        "test",
    )
    assert codes(found.bad) == {"schema": 1}


@pytest.fixture
def lerobot(tmp_path: Path) -> Path:
    """Two episodes in one video file, with subtasks and success; a third without its video."""
    root = tmp_path / "so100"
    camera = "observation.images.front"
    write_json(
        root / "meta" / "info.json",
        {
            "codebase_version": "v3.0", "fps": 5, "robot_type": "so100",
            "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
            "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
            "features": {
                "observation.images.wrist": {"dtype": "video", "shape": [48, 64, 3]},
                camera: {"dtype": "video", "shape": [48, 64, 3]},
                "action": {"dtype": "float32", "shape": [6]},
            },
        },
    )  # fmt: skip
    tasks = ["put the cup on the tray", "open the drawer"]
    table([{"task_index": i, "task": t} for i, t in enumerate(tasks)], root / "meta/tasks.parquet")
    subtasks = ["reach the cup", "grasp the cup", "place the cup"]
    table(
        [{"subtask_index": i, "subtask": t} for i, t in enumerate(subtasks)],
        root / "meta" / "subtasks.parquet",
    )
    episodes, frames = [], []
    for number in range(3):
        prefix = f"videos/{camera}"
        episodes.append(
            {
                "episode_index": number, "tasks": [tasks[number % 2]], "length": 30,
                "data/chunk_index": 0, "data/file_index": 0,
                f"{prefix}/chunk_index": 0, f"{prefix}/file_index": 1 if number == 2 else 0,
                f"{prefix}/from_timestamp": 6.0 * (number % 2),
                f"{prefix}/to_timestamp": 6.0 * (number % 2) + 6.0,
            }
        )  # fmt: skip
        for i in range(30):
            frames.append(
                {"episode_index": number, "frame_index": i, "timestamp": i / 5,
                 "subtask_index": i // 10, "next.success": number == 0 and i == 29}
            )  # fmt: skip
    table(episodes, root / "meta" / "episodes" / "chunk-000" / "file-000.parquet")
    table(frames, root / "data" / "chunk-000" / "file-000.parquet")
    video(root / "videos" / camera / "chunk-000" / "file-000.mp4", 12.0)
    return root


def test_lerobot_episodes_become_questions(lerobot: Path, tmp_path: Path) -> None:
    found = imported(lerobot, tmp_path / "pool")
    assert found.reader == "lerobot"
    first = {id.split("/")[-1]: s for id, s in found.samples.items() if "/ep0/" in id}
    assert brief(first["success"]) == ("yes_no", "true", "success")
    assert brief(found.samples["so100/ep1/success"]) == ("yes_no", "false", "success")
    assert brief(first["order"]) == (
        "order",
        "reach the cup > grasp the cup > place the cup",
        "temporal",
    )
    assert first["task"].answer.options[ord(first["task"].answer.answer) - 65] == (
        "put the cup on the tray"
    )
    assert first["interval"].answer.kind == "interval"
    assert first["next_step"].span_s < first["task"].span_s == 5.0
    assert first["next_step"].family.value == "planning"
    second = found.samples["so100/ep1/interval"]
    assert 0 <= second.answer.start < second.answer.end <= 6.01
    assert set(found.bad.values()) == {"media_missing"} and len(found.bad) == 5


DEPTH = {"is_depth_map": True}
FRONT = "observation.images.front"


@pytest.mark.parametrize(
    ("about", "name"),
    [
        ({"info": DEPTH}, "observation.images.front_z"),
        ({"info": {"video.is_depth_map": True}}, "observation.images.front_z"),
        ({"video_info": {"video.is_depth_map": True}}, "observation.images.front_z"),
        (DEPTH, "observation.images.front_z"),
        ({"info": {"is_depth_map": False}}, "observation.images.a_depth"),
    ],
)
def test_lerobot_depth_is_no_camera_to_ask_about(
    lerobot: Path, tmp_path: Path, about: dict[str, Any], name: str
) -> None:
    """Listed first, as the recorder wrote it; its episodes say nothing of it, so a choice shows."""
    path = lerobot / "meta" / "info.json"
    info = parse_json(path.read_text())
    info["features"] = {name: {"dtype": "video", **about}, **info["features"]}
    write_json(path, info)
    found = imported(lerobot, tmp_path / "pool")
    assert any("/ep0/" in id for id in found.samples)
    with pytest.raises(UserInputError, match="does not say where its video is"):
        imported(lerobot, tmp_path / "other", columns=(f"video={name}",))  # a person's word counts


def test_lerobot_with_depth_alone_says_so(lerobot: Path, tmp_path: Path) -> None:
    path = lerobot / "meta" / "info.json"
    info = parse_json(path.read_text())
    info["features"] = {FRONT: {"dtype": "video", "info": DEPTH}}
    write_json(path, info)
    with pytest.raises(UserInputError, match=f"only depth .*--column video={FRONT}"):
        imported(lerobot, tmp_path / "pool")
    found = imported(lerobot, tmp_path / "pool", columns=(f"video={FRONT}",))
    assert any("/ep0/" in id for id in found.samples)


def test_an_older_lerobot_version_is_one_sentence(lerobot: Path, tmp_path: Path) -> None:
    write_json(lerobot / "meta" / "info.json", {"codebase_version": "v2.1"})
    with pytest.raises(UserInputError, match=r"version v2\.1; convert it to v3\.0"):
        imported(lerobot, tmp_path / "pool")


@pytest.mark.parametrize(
    "written",
    ["['saw', 'file']", '["saw", "file"]', "['saw' 'file']", "A. saw\nB. file", "saw\nfile"],
)
def test_options_may_be_one_text(tmp_path: Path, written: str) -> None:
    image(tmp_path / "lab" / "a.png")
    row = {"image": "a.png", "question": "Which tool?", "answer": "B", "options": written}
    write_json(tmp_path / "lab" / "rows.json", [row])
    (sample,) = imported(tmp_path / "lab", tmp_path / "pool").samples.values()
    assert sample.answer == ChoiceAnswer(options=("saw", "file"), answer="B")


def test_no_reader_for_a_folder_of_pictures(tmp_path: Path) -> None:
    image(tmp_path / "album" / "1.png")
    with pytest.raises(UserInputError, match="no reader recognises"):
        imported(tmp_path / "album", tmp_path / "pool")
