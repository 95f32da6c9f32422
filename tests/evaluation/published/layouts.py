"""Small folders in the published layouts, two good questions and a broken one in each."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from tests.data.factory import picture

FPS, SECONDS = 10, 4


def video(path: Path, seconds: int = SECONDS) -> None:
    """A video whose grey value rises by 5 with every tenth of a second."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("mpeg4", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for number in range(FPS * seconds):
            pixels = np.full((32, 32, 3), 5 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


def image(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(picture(seed, (20, 10)))


def mask(path: Path) -> None:
    """20 x 10 pixels, the left half inside."""
    pixels = np.zeros((10, 20), np.uint8)
    pixels[:, :10] = 255
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def write(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl":
        rows = value if isinstance(value, list) else [value]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        path.write_text(json.dumps(value))


def parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


def inline(seed: int = 0) -> dict[str, Any]:
    return {"bytes": picture(seed), "path": None}


def vsibench(folder: Path) -> None:
    video(folder / "scannet" / "scene1.mp4")
    row = {"id": 0, "dataset": "scannet", "scene_name": "scene1", "question": "How many chairs?"}
    number = {**row, "question_type": "object_counting", "options": None, "ground_truth": "4"}
    options = ["A. left", "B. right"]
    choice = {**row, "id": 1, "question_type": "object_rel_direction_easy", "options": options}
    rows = [number, {**choice, "ground_truth": "B"}, {**number, "id": 2, "ground_truth": "0"}]
    write(folder / "test.jsonl", rows)


def where2place(folder: Path) -> None:
    rows = []
    for number in range(3):
        rows.append({"question_id": 7 + number, "image": f"{number}.png", "text": "Where?"})
        image(folder / "images" / f"{number}.png", number)
    for number in range(2):  # the third has no mask
        mask(folder / "masks" / f"{number:02d}.jpg")
    write(folder / "point_questions.jsonl", rows)


def refspatial(folder: Path) -> None:
    for task in ("Location", "Placement"):
        row = {"id": 1, "object": "cup", "prompt": "Point at it.", "suffix": "As a list."}
        paths = {"rgb_path": "image/1.png", "mask_path": "mask/1.png"}
        image(folder / task / "image" / "1.png")
        mask(folder / task / "mask" / "1.png")
        write(folder / task / "question.json", [{**row, **paths}])
    mask(folder / "Unseen" / "m.png")
    broken = {"id": 2, "prompt": "?", "rgb_path": "../../x.png", "mask_path": "m.png"}
    write(
        folder / "Unseen" / "question.json",
        [{**broken, "suffix": "As a list."}],
    )


def robospatial(folder: Path) -> None:
    image(folder / "images" / "a.png")
    row = {"question": "Does it fit?", "img": "images/a.png", "depth_image": None, "mask": None}
    square = "[(0.2, 0.2), (0.6, 0.2), (0.6, 0.6)]"
    rows = [
        {**row, "category": "configuration", "answer": "Yes"},
        {**row, "category": "context", "answer": square},
        {**row, "category": "context", "answer": "over there"},
    ]
    write(folder / "annotations.json", rows)


def erqa(folder: Path) -> None:
    row = {"question": "Which <image> one? A. x B. y", "question_type": "Pointing", "answer": "B"}
    rows = [
        {**row, "question_id": "1", "images": [inline(1), inline(2)]},
        {**row, "question_id": "2", "question": "Where? A. x B. y", "images": [inline(3)]},
        {**row, "question_id": "3", "images": [{"bytes": b"no image", "path": None}]},
    ]
    parquet(folder / "data" / "test-0.parquet", rows)


def egoschema(folder: Path) -> None:
    rows = []
    for name in ("u1", "u2", "u3", "u4"):
        row = {"q_uid": name, "question": "What does C do?"}
        rows.append({**row, **{f"option {i}": f"choice {i}" for i in range(5)}})
    write(folder / "questions.json", rows)
    write(folder / "subset_answers.json", {"u1": 0, "u2": 4, "u3": 7})
    for name in ("u1", "u2"):
        video(folder / "videos" / f"{name}.mp4", 1)


def mvbench(folder: Path) -> None:
    row = {"question": "What?", "candidates": ["open", "close"], "answer": "close"}
    video(folder / "video/star/Charades_v1_480/a.mp4")
    bounded = {**row, "video": "a.mp4", "start": 1.0, "end": 2.0}
    write(folder / "json" / "action_sequence.json", [bounded, {**bounded, "answer": "melt"}])
    video(folder / "video/perception/videos/b.mp4", 1)
    write(folder / "json" / "action_count.json", [{**row, "video": "b.mp4"}])


def phyx(folder: Path) -> None:
    cell = base64.b64encode(picture(1, (40, 40))).decode()
    lines = ["index\timage\tquestion\tanswer\tcategory"]
    lines += [f"{i}\t{cell}\tWhich?\t{answer}\tOptics" for i, answer in enumerate("BDX")]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "PhyX_mini_MC.tsv").write_text("\n".join(lines) + "\n")


def omnispatial(folder: Path) -> None:
    row = {"question": "How?", "options": ["a", "b"], "sub_task_type": "Geometric_Reasoning"}
    image(folder / "Complex_Logic" / "0.png")
    rows = [
        {**row, "task_type": "Complex_Logic", "id": f"0_{i}", "answer": i} for i in range(3)
    ]  # 2 is outside
    write(folder / "data.json", rows)


def blink(folder: Path) -> None:
    row = {"prompt": "Which? <image> (A) x (B) y", "choices": ["x", "y"], "image_2": None}
    for task in ("Counting", "Jigsaw"):
        good = {**row, "idx": f"val_{task}_1", "sub_task": task, "image_1": inline()}
        rows = [{**good, "answer": "(B)"}]
        rows += [{**good, "idx": "hidden", "answer": "hidden"}] if task == "Jigsaw" else []
        rows += [{**good, "idx": "bad", "answer": "(E)"}] if task == "Jigsaw" else []
        parquet(folder / task / "val-00000-of-00001.parquet", rows)


def embspatial(folder: Path) -> None:
    row: dict[str, Any] = {
        "data_source": "mp3d",
        "scene_id": "s",
        "question": "Which?",
        "relation": "close",
    }
    row["image"] = base64.b64encode(picture(1, (40, 40))).decode()
    rows = [
        {**row, "question_id": f"mp3d_{i}", "answer_options": ["a", "b", "c", "d"], "answer": i}
        for i in (1, 3, 4)  # 4 is outside
    ]
    write(folder / "embspatial_bench.json", rows)


def cosmos(folder: Path) -> None:
    video(folder / "av" / "clips" / "a.mp4", 1)
    pair = {"question": "Safe?", "index2ans": {"A": "yes", "B": "no"}}
    rows = [
        {"video": "clips/a.mp4", "qa_pairs": [{**pair, "answer": "A"}]},
        {"video": "clips/b.mp4", "qa_pairs": {**pair, "question": "Why?", "correct_answer": "b"}},
        {"video": "clips/gone.mp4", "qa_pairs": {**pair, "answer": "A"}},
    ]
    video(folder / "av" / "clips" / "b.mp4", 1)
    write(folder / "av" / "av_benchmark_qa_pairs.json", rows)


def mmstar(folder: Path) -> None:
    row = {"question": "Which? Options: A: x, B: y", "answer": "B", "category": "math"}
    rows = [{**row, "index": i, "image": inline(i), "l2_category": "geometry"} for i in range(2)]
    rows.append({**rows[0], "index": 1})
    parquet(folder / "val.parquet", rows)


def openeqa(folder: Path) -> None:
    for number in range(3):
        image(folder / "frames/hm3d-v0/000" / f"{number:05d}-rgb.png", number)
    row = {"question": "What is on the wall?", "answer": "A fan", "category": "object recognition"}
    rows = [
        {**row, "question_id": "a", "episode_history": "hm3d-v0/000"},
        {**row, "question_id": "b", "episode_history": "hm3d-v0/000", "extra_answers": ["A vent"]},
        {**row, "question_id": "c", "episode_history": "hm3d-v0/gone"},
    ]
    write(folder / "open-eqa-v0.json", rows)


LAYOUTS: dict[str, Callable[[Path], None]] = {
    made.__name__: made
    for made in (
        vsibench,
        where2place,
        refspatial,
        robospatial,
        erqa,
        egoschema,
        mvbench,
        phyx,
        omnispatial,
        blink,
        embspatial,
        cosmos,
        mmstar,
        openeqa,
    )
}
