"""LLaVA/ShareGPT, cosmos and vsibench styles: conversations with images and videos."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.data.formats.world import brief, image, imported, video, write_json, write_lines


def chat(*texts: str, **more: Any) -> dict[str, Any]:
    roles = ("human", "gpt")
    turns = [{"from": roles[i % 2], "value": text} for i, text in enumerate(texts)]
    return {"conversations": turns, **more}


def test_llava_rows_with_one_image_and_several(tmp_path: Path) -> None:
    root = tmp_path / "llava"
    for i in range(3):
        image(root / "coco" / f"{i}.png", seed=i)
    write_json(
        root / "mix.json",
        [
            chat("<image>\nWhat colour is the mug?", "Red", id="000", image="coco/0.png"),
            chat("<image>\nHow many chairs?", "2", id="000", image="coco/0.png"),
            chat(
                "Compare <image> with <image>: which is nearer?\nA. the cup\nB. the bowl",
                "B. the bowl",
                id="two",
                image=["coco/0.png", "coco/1.png"],
            ),
            chat("<image>\nDescribe the scene.", "A robot arm over a table with two mugs.",
                 id="long", image="coco/2.png"),
            chat("<image>\nWhich?\nA. x\nB. y", "D", id="letter", image="coco/2.png"),
            chat("<image>\nWhat colour is the mug?", "Red", id="000", image="coco/0.png"),
            {"id": "str", "conversations": "hello", "image": "coco/0.png"},
            chat("<image>", "x", id="no-text", image="coco/0.png"),
            chat("only a question", id="unanswered", image="coco/0.png"),
        ],
    )  # fmt: skip
    found = imported(root, tmp_path / "pool")
    assert found.reader == "llava"
    kinds = sorted(brief(sample)[:2] for sample in found.samples.values())
    assert kinds == [
        ("choice", "B of 2"),
        ("count", "2"),
        ("open", "A robot arm over a table with two mugs."),
        ("text", "Red"),
    ]
    two = found.samples["llava/two"]
    assert two.question.startswith("Compare image 1 with image 2: which is nearer?")
    assert len(two.images) == 2 and two.media_kind == "image"
    assert found.bad == {
        "000": "duplicate_id",
        "letter": "answer",
        "str": "schema",
        "no-text": "schema",
        "unanswered": "schema",
    }


def test_cosmos_rows_are_clips_with_times(tmp_path: Path) -> None:
    root = tmp_path / "cosmos"
    video(root / "clips" / "a.mp4", 4.0)
    video(root / "clips" / "b.mp4", 3.0, seed=2)
    (root / "clips" / "sound.mp4").write_bytes(b"")
    (root / "clips" / "cut.mp4").write_bytes((root / "clips" / "a.mp4").read_bytes()[:900])
    ask = "<video>\nIs the task of stacking complete?\nA. yes, it is\nB. no, it is not"
    write_json(
        root / "rl.json",
        [
            chat(ask, "<think>stacked</think><answer>A</answer>", id="a", video=["clips/a.mp4"]),
            chat(
                "<video><video>\nWhat is the next step?", "grasp the cup", id="two",
                video=["clips/a.mp4", "clips/b.mp4"],
            ),
            chat(ask, "A", id="cut", video=["clips/cut.mp4"]),
            chat(ask, "A", id="empty", video=["clips/sound.mp4"]),
            chat(ask, "A", id="gone", video=["clips/c.mp4"]),
            chat(ask, "A", id="mixed", video=["clips/a.mp4"], image="x.png"),
            chat(ask, "A", id="window", video=[{"video": "clips/a.mp4", "start": 1, "end": 3}]),
            chat(ask, "A", id="beyond", video=[{"video": "clips/a.mp4", "start": 9, "end": 12}]),
        ],
    )  # fmt: skip
    found = imported(root, tmp_path / "pool")
    assert found.reader == "cosmos"
    a = found.samples["cosmos/a"]
    assert a.times_s == (0.0, 1.0, 2.0, 3.0) and a.media_kind == "clip"
    assert brief(a) == ("choice", "A of 2", "success")
    assert found.samples["cosmos/two"].times_s == (0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0)
    assert found.samples["cosmos/window"].times_s == (0.0, 1.0)
    assert found.bad == {
        "cut": "video_unreadable",
        "empty": "video_unreadable",
        "gone": "media_missing",
        "mixed": "media_mixed",
        "beyond": "video_window",
    }


def test_vsibench_rows_without_a_tag_and_its_published_rows(tmp_path: Path) -> None:
    root = tmp_path / "vsi"
    video(root / "arkitscenes" / "47.mp4", 3.0)
    video(root / "rooms" / "1.mp4", 3.0)
    size = {"question_type": "object_size_estimation", "data_source": "scannet"}
    write_lines(
        root / "train.jsonl",
        [
            chat("How long is the sofa?", "182", id=1, video="rooms/1.mp4", **size),
            chat("How far is the sofa from the door?", "1.9", id=2, video="rooms/1.mp4",
                 question_type="object_abs_distance", data_source="scannet"),
            chat("How many chairs?", "4", id=3, video="rooms/1.mp4",
                 question_type="object_counting", data_source="scannet"),
            chat("How long?", "minus", id=4, video="rooms/1.mp4", **size),
            '{"id": 5, "conversations": [',
            chat("How long is it?", "0", id=6, video="rooms/1.mp4", **size),
        ],
    )  # fmt: skip
    found = imported(root, tmp_path / "pool")
    assert found.reader == "vsibench"
    assert [brief(s) for s in found.samples.values()] == [
        ("distance", "182 cm", "counting"),
        ("distance", "1.9 m", "counting"),
        ("count", "4", "counting"),
    ]
    assert found.bad == {"train.jsonl, row 5": "json", "4": "answer", "6": "answer"}

    official = {"dataset": "arkitscenes", "scene_name": "47", "options": None}
    write_lines(
        root / "test" / "test.jsonl",
        [
            {**official, "id": 0, "question_type": "object_rel_direction_hard",
             "question": "Where is the stove?", "ground_truth": "B",
             "options": ["A. left", "B. right", "C. behind"]},
            {**official, "id": 1, "question_type": "room_size_estimation",
             "question": "What is the size of this room in square meters?", "ground_truth": "23.5"},
            {**official, "id": 2, "question_type": "route_planning", "question": "?"},
            {**official, "id": 3, "question_type": "object_rel_distance", "question": "Nearest?",
             "ground_truth": "E", "options": ["A. a", "B. b"]},
        ],
    )  # fmt: skip
    found = imported(root / "test", tmp_path / "official", media=(root,), split="test")
    assert [brief(s) for s in found.samples.values()] == [
        ("choice", "B of 3", "counting"),
        ("distance", "23.5 m", "counting"),
    ]
    assert found.samples["vsibench/0"].question.endswith("A. left\nB. right\nC. behind")
    assert found.bad == {"2": "schema", "3": "answer"}
