"""Open-EQA, RefSpatial, Where2Place, EgoSchema and MVBench, in their published layouts."""

from __future__ import annotations

from pathlib import Path

from tests.data.formats.world import brief, image, imported, mask, video, write_json, write_lines


def test_open_eqa_reads_folders_of_frames(tmp_path: Path) -> None:
    root = tmp_path / "open-eqa"
    for i in range(6):
        image(root / "frames" / "hm3d-v0" / "000-x" / f"{i:06d}.jpg", seed=i)
    image(root / "frames" / "hm3d-v0" / "001-y" / "000000.jpg")
    episode = {"episode_history": "hm3d-v0/000-x"}
    write_json(
        root / "open-eqa-v0.json",
        [
            {"question_id": "q0", "question": "What is on the sofa?", "answer": "A red pillow",
             "extra_answers": ["a pillow"], "category": "object recognition", **episode},
            {"question_id": "q1", "question": "Is the lamp on?", "answer": "No",
             "category": "object state recognition", **episode},
            {"question_id": "q2", "question": "How could I cool the room down?",
             "answer": "open the window near the desk", "category": "functional reasoning",
             **episode},
            {"question_id": "q3", "question": "What?", "category": "world knowledge", **episode},
            {"question_id": "q4", "question": "What?", "answer": "x",
             "episode_history": "hm3d-v0/001-y"},
            {"question_id": "q5", "question": "What?", "answer": "x",
             "episode_history": "hm3d-v0/9"},
        ],
    )  # fmt: skip
    found = imported(root, tmp_path / "pool", media=(root / "frames",))
    assert found.reader == "openeqa"
    assert {id[-2:]: brief(s) for id, s in found.samples.items()} == {
        "q0": ("text", "A red pillow", "general"),
        "q1": ("yes_no", "false", "success"),
        "q2": ("open", "open the window near the desk", "general"),
    }
    assert found.samples["openeqa/q0"].times_s == (0.0, 1.0, 2.0, 3.0, 4.0, 5.0)
    assert found.bad == {"q3": "schema", "q4": "clip_step", "q5": "media_missing"}


def test_refspatial_points_are_scored_by_their_mask(tmp_path: Path) -> None:
    root = tmp_path / "RefSpatial-Bench"
    for i in range(3):
        image(root / "Location" / "image" / f"{i}.png", seed=i)
    mask(root / "Location" / "mask" / "0.png", (10, 10, 30, 30))
    mask(root / "Location" / "mask" / "1.png", (10, 10, 30, 30), size=(32, 24))
    mask(root / "Location" / "mask" / "2.png", (0, 0, 0, 0))
    suffix = "Your answer should be a list of tuples with x and y between 0 and 1."
    row = {"object": "cup", "prompt": "Point to the left cup.", "suffix": suffix, "step": 2}
    write_json(
        root / "Location" / "question.json",
        [
            {**row, "id": i, "category": "location", "rgb_path": f"image/{i}.png",
             "mask_path": f"mask/{i}.png"}
            for i in range(4)
        ],
    )  # fmt: skip
    found = imported(root, tmp_path / "pool", split="test")
    assert found.reader == "refspatial"
    assert {id: brief(s) for id, s in found.samples.items()} == {
        "refspatial/location/0": ("points", "mask 64x48 scale 1", "affordance")
    }
    assert found.bad == {
        "location/1": "mask_size",
        "location/2": "answer",
        "location/3": "media_missing",
    }
    assert "32 x 24 for an image of 64 x 48" in found.reasons["location/1"]


def test_where2place_finds_the_mask_by_the_image(tmp_path: Path) -> None:
    root = tmp_path / "where2place"
    image(root / "images" / "00.jpg")
    mask(root / "masks" / "00.jpg", (10, 10, 30, 30))
    write_lines(
        root / "point_questions.jsonl",
        [
            {"question_id": 0, "image": "00.jpg", "text": "Free space right of the cup?"},
            {"question_id": 1, "image": "01.jpg", "text": "Free space?"},
        ],
    )
    found = imported(root, tmp_path / "pool")
    assert [brief(s)[0] for s in found.samples.values()] == ["points"]
    assert found.bad == {"where2place/1": "media_missing"} or found.bad == {"1": "media_missing"}


def test_egoschema_joins_answers_and_leaves_out_the_sealed(tmp_path: Path) -> None:
    root = tmp_path / "ego"
    video(root / "videos" / "u0.mp4", 3.0)
    video(root / "videos" / "u2.mp4", 3.0, seed=1)
    options = {f"option {i}": f"C does thing {i}" for i in range(5)}
    write_json(
        root / "questions.json",
        [{"q_uid": f"u{i}", "question": "What does C do?", **options} for i in range(4)],
    )
    write_json(root / "subset_answers.json", {"u0": 3, "u2": 7, "u3": 0})
    found = imported(root, tmp_path / "pool", media=(root / "videos",))
    assert found.reader == "egoschema"
    assert brief(found.samples["egoschema/u0"])[:2] == ("choice", "D of 5")
    assert "D. C does thing 3" in found.samples["egoschema/u0"].question
    assert found.bad == {"u1": "answer_missing", "u2": "answer", "u3": "media_missing"}


def test_mvbench_cuts_windows_and_reads_tasks_from_file_names(tmp_path: Path) -> None:
    root = tmp_path / "mvbench"
    video(root / "video" / "star" / "a.mp4", 6.0)
    for i in range(9):
        image(root / "video" / "tvqa" / "s1" / f"{i:05d}.jpg", seed=i)
    choice = {"question": "What was put down?", "candidates": ["The cup.", "The book."]}
    write_json(
        root / "json" / "action_sequence.json",
        [
            {"video": "a.mp4", **choice, "answer": "The book.", "start": 1.0, "end": 4.0},
            {"video": "a.mp4", **choice, "answer": "The towel."},
            {"video": "a.mp4", "question": "?", "candidates": ["x", "x"], "answer": "x"},
            {"video": "b.mp4", **choice, "answer": "The cup."},
        ],
    )
    write_json(
        root / "json" / "episodic_reasoning.json",
        [{"video": "s1", **choice, "answer": "The cup.", "start": 0.0, "end": 2.5}],
    )
    folders = (root / "video" / "star", root / "video" / "tvqa")
    found = imported(root, tmp_path / "pool", media=folders)
    assert found.reader == "mvbench"
    cut = found.samples["mvbench/action_sequence/0"]
    assert (brief(cut), cut.times_s) == (("choice", "B of 2", "temporal"), (0.0, 1.0, 2.0))
    frames = found.samples["mvbench/episodic_reasoning/0"]
    assert frames.times_s == (0.0, 1.0, 2.0)
    assert found.bad == {
        "action_sequence/1": "answer",
        "action_sequence/2": "answer",
        "action_sequence/3": "media_missing",
    }


def test_vsibench_with_options_that_are_no_list_costs_one_row(tmp_path: Path) -> None:
    root = tmp_path / "vsi"
    video(root / "scannet" / "s.mp4", 3.0)
    row = {"dataset": "scannet", "scene_name": "s", "question_type": "object_counting"}
    row |= {"question": "How many chairs are in this room?", "ground_truth": "4"}
    rows = [{**row, "id": 0, "options": None}, {**row, "id": 1, "options": 7}]
    write_lines(root / "test.jsonl", rows)
    found = imported(root, tmp_path / "pool", split="test")
    assert (found.reader, list(found.samples)) == ("vsibench", ["vsibench/0"])
    assert found.bad == {"1": "answer"}
