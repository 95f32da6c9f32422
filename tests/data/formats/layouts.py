"""One small source in each layout that an import knows without being told."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from tests.data.factory import sample, write_pool
from tests.data.formats.world import draw, image, mask, video, write_json, write_lines

HOW_MANY, COLOUR = "How many cups are on the table?", "What colour is the cup?"


def encoded(seed: int, kind: str = "PNG") -> bytes:
    out = io.BytesIO()
    draw(seed).save(out, kind)
    return out.getvalue()


def inline(seed: int) -> dict[str, Any]:
    return {"bytes": encoded(seed), "path": None}


def parquet(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist([dict(row) for row in rows]), path)


def table(path: Path, rows: Sequence[Mapping[str, Any]], delimiter: str = ",") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)


def shard(path: Path, members: Sequence[tuple[str, bytes | str | dict[str, Any]]]) -> None:
    """A tar, by its name compressed or not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz" if path.suffix in (".gz", ".tgz") else "w") as file:
        for name, value in members:
            text = json.dumps(value) if isinstance(value, dict) else value
            data = text.encode() if isinstance(text, str) else text
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))


def turns(*texts: str, role: str = "role", content: str = "content") -> list[dict[str, Any]]:
    names = ("human", "gpt") if role == "from" else ("user", "assistant")
    return [{role: names[i % 2], content: text} for i, text in enumerate(texts)]


def graded(number: int, answer: str, **more: Any) -> dict[str, Any]:
    """A row as verl's examples write it."""
    return {
        "data_source": "lab/cups",
        "prompt": [
            {"role": "system", "content": "Think first."},
            {"role": "user", "content": f"<image>{HOW_MANY}"},
        ],
        "ability": "counting",
        "reward_model": {"style": "rule", "ground_truth": answer},
        "extra_info": {"split": "train", "index": number, "answer": f"{answer} cups"},
        **more,
    }


# verl and EasyR1


def verl_parquet(root: Path) -> None:
    parquet(root / "train.parquet", [graded(i, str(i), images=[inline(i)]) for i in range(2)])
    parquet(root / "test.parquet", [graded(2, "2", extra_info={"index": 2}, images=[inline(2)])])


def verl_lines(root: Path) -> None:
    for i in range(2):
        image(root / "images" / f"{i}.png", seed=10 + i)
    rows = [graded(i, "2", images=[{"image": f"file://images/{i}.png"}]) for i in range(2)]
    write_lines(root / "train.jsonl", rows)


def verl_text(root: Path) -> None:
    row = graded(
        0, "72", prompt=[{"role": "user", "content": "Natalia sold 48 clips, then 24: total?"}]
    )
    parquet(root / "train.parquet", [row])


def easyr1_parquet(root: Path) -> None:
    rows = [
        {"images": [inline(20 + i)], "problem": f"<image>{HOW_MANY}", "answer": "3"}
        for i in range(2)
    ]
    parquet(root / "train.parquet", rows)


def easyr1_videos(root: Path) -> None:
    video(root / "a.mp4", 4.0)
    row = {"prompt": "<video>Did the grasp succeed?", "answer": "yes", "videos": ["a.mp4"]}
    write_json(root / "data.json", [row])


# Plain tables, and folders of pictures


def json_list(root: Path) -> None:
    image(root / "a.png", seed=30)
    image(root / "b.png", seed=31)
    rows = [
        {"question": HOW_MANY, "answer": 3, "image": "a.png"},
        {"question": "Which is left?", "choices": ["cup", "bowl"], "answer": "B", "image": "b.png"},
    ]
    write_json(root / "data.json", rows)


def json_lines(root: Path) -> None:
    image(root / "a.png", seed=32)
    write_lines(root / "data.jsonl", [{"problem": COLOUR, "solution": "red", "images": ["a.png"]}])


def json_text(root: Path) -> None:
    write_lines(root / "data.jsonl", [{"question": "What is 3 + 4?", "answer": "7"}])


def csv_table(root: Path) -> None:
    image(root / "a.png", seed=33)
    row = {
        "question": "Which is left?",
        "options": "['cup', 'bowl']",
        "answer": "A",
        "image": "a.png",
    }
    table(root / "data.csv", [row])


def csv_of_excel(root: Path) -> None:
    """Headed by hand, and parted as where 1,5 is a number."""
    image(root / "a.png")
    table(
        root / "data.csv", [{"Image": "a.png", "Question ": HOW_MANY, "Answer": "3, I think"}], ";"
    )


def trl_completion(root: Path) -> None:
    """TRL's prompt and completion, conversations both."""
    asked, said = turns(HOW_MANY, "Two.")
    row = {"images": [inline(8)], "prompt": [asked], "completion": [said]}
    parquet(root / "train.parquet", [row])


def lists_of_frames(root: Path) -> None:
    names = [image(root / f"{i}.jpg", i).name for i in range(4)]
    when = {"question": "When is it held?", "answer": "0.5 to 1 s"}
    write_lines(
        root / "data.jsonl",
        [
            {"id": "video", "video": names, "fps": 2, **when},
            {"id": "frames", "frames": names, "fps": 2, **when},
        ],
    )


def folder_csv(root: Path) -> None:
    for i, split in enumerate(("train", "test")):
        image(root / split / "0001.png", seed=40 + i)
        row = {"file_name": "0001.png", "question": HOW_MANY, "answer": "4"}
        table(root / split / "metadata.csv", [row])


def folder_lines(root: Path) -> None:
    for i in range(2):
        image(root / "pictures" / f"{i}.png", seed=42 + i)
    names = ["pictures/0.png", "pictures/1.png"]
    row = {"file_names": names, "question": "Is the second picture darker?", "answer": "no"}
    write_lines(root / "metadata.jsonl", [row])


def folder_parquet(root: Path) -> None:
    image(root / "a.png", seed=44)
    image(root / "validation" / "b.png", seed=45)
    mask(root / "validation" / "b_mask.png", (0, 0, 20, 20))
    row = {"image_file_name": "a.png", "mask_file_name": None, "question": COLOUR, "answer": "blue"}
    point = {"image_file_name": "validation/b.png", "mask_file_name": "validation/b_mask.png",
             "question": "Point at the cup.", "answer": None}  # fmt: skip
    parquet(root / "metadata.parquet", [row, point])


def folder_videos(root: Path) -> None:
    video(root / "a.mp4", 4.0, seed=2)
    row = {"file_name": "a.mp4", "question": "Did the grasp succeed?", "answer": "no"}
    write_lines(root / "metadata.jsonl", [row])


# WebDataset


def tars(root: Path) -> None:
    """Two shards, one compressed: a question in the JSON, one with its answer in the text, and a chat."""
    shard(
        root / "train-00000.tar",
        [
            ("a/000.jpg", encoded(50, "JPEG")),
            ("a/000.json", {"question": HOW_MANY, "answer": "5"}),
            ("a/001.json", {"question": COLOUR}),
            ("a/001.txt", "green\n"),
            ("a/001.png", encoded(51)),
        ],
    )
    chat = {
        "conversations": turns("<image><image>Is it open?", "Yes", role="from", content="value")
    }
    shard(
        root / "test-00000.tar.gz",
        [("b.0.png", encoded(52)), ("b.1.png", encoded(53)), ("b.json", chat)],
    )


# LLaMA-Factory


def v1_parts(root: Path) -> None:
    image(root / "data" / "1.jpg", seed=60)
    asked = [{"type": "image_url", "value": "data/1.jpg"}, {"type": "text", "value": HOW_MANY}]
    said = [{"type": "text", "value": "3"}]
    row = {
        "messages": [
            {"role": "user", "content": asked, "loss_weight": 0.0},
            {"role": "assistant", "content": said, "loss_weight": 1.0},
        ]
    }
    write_lines(root / "v1.jsonl", [row])


def alpaca(root: Path) -> None:
    image(root / "1.png", seed=61)
    rows = [
        {"instruction": f"<image>{COLOUR}", "input": "", "output": "red", "images": ["1.png"]},
        {"instruction": "Name the capital of France.", "input": "In one word.", "output": "Paris"},
    ]
    write_json(root / "alpaca.json", rows[:1])
    write_json(root / "text.json", rows[1:])


def dataset_info(root: Path) -> None:
    """Columns and tags of other names, a video, a hub's data set, and a file that is not there."""
    image(root / "pics" / "1.png", seed=62)
    video(root / "clips" / "1.mp4", 4.0, seed=3)
    says = {"user_tag": "human", "assistant_tag": "robot", "role_tag": "who", "content_tag": "what"}
    info = {
        "mine": {"file_name": "mine.json", "columns": {"prompt": "ask", "response": "say", "images": "pic"}},
        "talks": {"file_name": "talks.jsonl", "formatting": "sharegpt", "tags": says,
                  "columns": {"messages": "talk", "videos": "film", "system": "rules"}},
        "alpaca_en": {"hf_hub_url": "llamafactory/alpaca_en"},
        "gone": {"file_name": "gone.json"},
        "pairs": {"file_name": "mine.json", "ranking": True},
    }  # fmt: skip
    write_json(root / "dataset_info.json", info)
    write_json(
        root / "mine.json", [{"ask": f"<image>{COLOUR}", "say": "grey", "pic": ["pics/1.png"]}]
    )
    talk = [{"who": "human", "what": "<video>Is it done?"}, {"who": "robot", "what": "Yes"}]
    write_lines(
        root / "talks.jsonl", [{"talk": talk, "film": ["clips/1.mp4"], "rules": "Be brief."}]
    )


def sharegpt(root: Path) -> None:
    image(root / "1.png", seed=63)
    talk = turns(f"<image>{COLOUR}", "black", role="from", content="value")
    write_json(root / "mix.json", [{"conversations": talk, "images": ["1.png"]},
                                   {"conversations": turns("Say hello in French.", "Bonjour", role="from",
                                                           content="value")}])  # fmt: skip


# Layouts of before


def robopoint(root: Path) -> None:
    image(root / "1.png", seed=70)
    write_json(
        root / "train.json", [{"messages": turns(f"<image>{HOW_MANY}", "3"), "images": ["1.png"]}]
    )


def cosmos(root: Path) -> None:
    video(root / "1.mp4", 4.0, seed=4)
    talk = turns("<video>Is it done?", "yes", role="from", content="value")
    write_json(root / "rl.json", [{"conversations": talk, "video": ["1.mp4"]}])


def vsibench(root: Path) -> None:
    video(root / "scannet" / "s1.mp4", 4.0, seed=5)
    row = {"dataset": "scannet", "scene_name": "s1", "question_type": "object_counting"}
    write_lines(
        root / "test.jsonl", [{**row, "id": 1, "question": "How many chairs?", "ground_truth": "4"}]
    )


def openeqa(root: Path) -> None:
    for i in range(3):
        image(root / "frames" / "e1" / f"{i}.png", seed=71 + i)
    row = {
        "question_id": "q",
        "question": COLOUR,
        "answer": "red",
        "category": "attribute recognition",
    }
    write_json(root / "open-eqa-v0.json", [{**row, "episode_history": "e1"}])


def refspatial(root: Path) -> None:
    image(root / "Location" / "image" / "1.png", seed=74)
    mask(root / "Location" / "mask" / "1.png", (0, 0, 20, 20))
    row = {"id": 1, "prompt": "Point at it.", "suffix": "As a list of points from 0 to 1."}
    paths = {"rgb_path": "image/1.png", "mask_path": "mask/1.png"}
    write_json(root / "Location" / "question.json", [{**row, **paths}])


def egoschema(root: Path) -> None:
    video(root / "u1.mp4", 4.0, seed=6)
    row = {
        "q_uid": "u1",
        "question": "What does C do?",
        **{f"option {i}": f"x{i}" for i in range(5)},
    }
    write_json(root / "questions.json", [row])
    write_json(root / "subset_answers.json", {"u1": 0})


def mvbench(root: Path) -> None:
    video(root / "a.mp4", 4.0, seed=7)
    row = {
        "video": "a.mp4",
        "question": "What?",
        "candidates": ["open", "close"],
        "answer": "close",
    }
    write_json(root / "action_sequence.json", [row])


def lmms_eval(root: Path) -> None:
    parquet(root / "data" / "test.parquet", [{"q": HOW_MANY, "gold": "2", "image": inline(75)}])
    task = {"task": "cups", "dataset_path": "data", "test_split": "test", "doc_to_text": "{{q}}",
            "doc_to_target": "gold"}  # fmt: skip
    (root / "cups.yaml").write_text(yaml.safe_dump(task))


def saved_to_disk(root: Path) -> None:
    import datasets

    features = datasets.Features(
        {
            "question": datasets.Value("string"),
            "answer": datasets.Value("string"),
            "image": datasets.Image(),
        }
    )
    row = {"question": HOW_MANY, "answer": "3", "image": inline(76)}
    datasets.Dataset.from_list([row], features=features).save_to_disk(root)


def plain_parquet(root: Path) -> None:
    parquet(root / "data.parquet", [{"question": HOW_MANY, "answer": "3", "image": inline(77)}])


def own_pool(root: Path) -> None:
    write_pool(root, [sample(78)])


FRONT, WRIST = "observation.images.front", "observation.images.wrist"


def persistent(*rows: tuple[str, float, str]) -> list[dict[str, Any]]:
    """(style, seconds, text) as rows of `language_persistent`."""
    return [
        {"role": "assistant", "content": text, "style": style, "timestamp": time, "camera": None}
        for style, time, text in rows
    ]


def vqa(camera: str, question: str, answer: object) -> list[dict[str, Any]]:
    """A question and its answer as rows of `language_events`."""
    said = answer if isinstance(answer, str) else json.dumps(answer)
    row = {"style": "vqa", "camera": camera}
    return [
        {"role": "user", "content": question, **row},
        {"role": "assistant", "content": said, **row},
    ]


LASTING = persistent(
    ("subtask", 0.0, "reach the cup"),
    ("subtask", 2.0, "grasp the cup"),
    ("subtask", 4.0, "place the cup"),
    ("plan", 0.0, "1. reach the cup\n2. grasp the cup\n3. place the cup"),
    ("plan", 4.0, "1. place the cup"),
    ("memory", 2.0, "The cup was reached."),
    ("task_aug", 0.0, "get the cup onto the tray"),
)
EVENTS: dict[int, list[dict[str, Any]]] = {
    3: vqa(FRONT, "How many cups are there?", {"label": "cup", "count": 2})
    + vqa(WRIST, "What colour is the cup?", {"label": "cup", "attribute": "color", "value": "red"}),
    7: vqa(FRONT, "Where is the cup?", {"label": "cup", "point_format": "xy", "point": [32, 12]}),
    12: vqa(FRONT, "Box of the cup?", {"detections": [
        {"label": "cup", "bbox_format": "xyxy", "bbox": [16, 12, 32, 24]}]}),
    13: vqa(FRONT, "Boxes?", {"detections": [{"bbox": [0, 0, 9, 9]}, {"bbox": [9, 9, 19, 19]}]}),
    14: vqa("observation.images.top", "What?", "a cup"),
    15: [{"role": "user", "content": "Wait!", "style": "interjection", "camera": None}],
}  # fmt: skip


def lerobot(root: Path, lasting: list[dict[str, Any]] = LASTING) -> None:
    """Two episodes of 6 s at 5 frames a second, two cameras, with language columns."""
    image_of = {"dtype": "video", "shape": [48, 64, 3], "names": ["height", "width", "channels"]}
    info = {"codebase_version": "v3.1", "fps": 5, "robot_type": "so100",
            "features": {WRIST: image_of, FRONT: image_of}}  # fmt: skip
    write_json(root / "meta" / "info.json", info)
    tasks = ["put the cup on the tray", "open the drawer", "get the cup onto the tray"]
    parquet(
        root / "meta" / "tasks.parquet", [{"task_index": i, "task": t} for i, t in enumerate(tasks)]
    )
    episodes, frames = [], []
    for number in range(2):
        spans: dict[str, Any] = {}
        for camera in (FRONT, WRIST):
            spans |= {f"videos/{camera}/{n}_index": 0 for n in ("chunk", "file")}
            spans[f"videos/{camera}/from_timestamp"] = 6.0 * number
            spans[f"videos/{camera}/to_timestamp"] = 6.0 * number + 6.0
        place = {"data/chunk_index": 0, "data/file_index": 0}
        episodes.append({"episode_index": number, "tasks": [tasks[number]], **place, **spans})
        for i in range(30):
            said = {"language_persistent": [] if number else lasting,
                    "language_events": [] if number else EVENTS.get(i, [])}  # fmt: skip
            frames.append({"episode_index": number, "timestamp": i / 5, **said})
    parquet(root / "meta" / "episodes" / "chunk-000" / "file-000.parquet", episodes)
    parquet(root / "data" / "chunk-000" / "file-000.parquet", frames)
    for seed, camera in enumerate((FRONT, WRIST)):
        video(root / "videos" / camera / "chunk-000" / "file-000.mp4", 12.0, seed=seed)


# Name -> what writes it, the reader, and how many good rows and rows left out it has.
LAYOUTS: dict[str, tuple[Callable[[Path], None], str, int, int]] = {
    "verl, Parquet": (verl_parquet, "verl", 3, 0),
    "verl, JSON lines": (verl_lines, "verl", 2, 0),
    "verl, text alone": (verl_text, "verl", 1, 0),
    "EasyR1, Parquet": (easyr1_parquet, "verl", 2, 0),
    "EasyR1, videos": (easyr1_videos, "verl", 1, 0),
    "JSON, a list": (json_list, "json", 2, 0),
    "JSON lines": (json_lines, "json", 1, 0),
    "JSON lines, text alone": (json_text, "json", 1, 0),
    "CSV": (csv_table, "json", 1, 0),
    "CSV of Excel": (csv_of_excel, "json", 1, 0),
    "TRL, completion": (trl_completion, "parquet", 1, 0),
    "lists of frames": (lists_of_frames, "json", 2, 0),
    "imagefolder, metadata.csv": (folder_csv, "imagefolder", 2, 0),
    "imagefolder, metadata.jsonl": (folder_lines, "imagefolder", 1, 0),
    "imagefolder, metadata.parquet": (folder_parquet, "imagefolder", 2, 0),
    "videofolder": (folder_videos, "imagefolder", 1, 0),
    "WebDataset": (tars, "webdataset", 3, 0),
    "LLaMA-Factory v1": (v1_parts, "llamafactory", 1, 0),
    "LLaMA-Factory, Alpaca": (alpaca, "llamafactory", 2, 0),
    "LLaMA-Factory, dataset_info.json": (dataset_info, "llamafactory", 2, 3),
    "LLaMA-Factory, ShareGPT": (sharegpt, "llava", 2, 0),
    "RoboPoint": (robopoint, "robopoint", 1, 0),
    "Cosmos": (cosmos, "cosmos", 1, 0),
    "VSI-Bench": (vsibench, "vsibench", 1, 0),
    "OpenEQA": (openeqa, "openeqa", 1, 0),
    "RefSpatial": (refspatial, "refspatial", 1, 0),
    "EgoSchema": (egoschema, "egoschema", 1, 0),
    "MVBench": (mvbench, "mvbench", 1, 0),
    "LeRobot": (lerobot, "lerobot", 10, 2),
    "lmms-eval": (lmms_eval, "lmms_eval", 1, 0),
    "save_to_disk": (saved_to_disk, "hf", 1, 0),
    "Parquet": (plain_parquet, "parquet", 1, 0),
    "a pool": (own_pool, "parquet", 1, 0),
}
