"""Every layout is recognised by one reader, imported, checked, and opened in Hugging Face's library."""

from __future__ import annotations

from pathlib import Path

import pytest

from pelican.data.checks import check
from pelican.data.formats import sniff
from pelican.data.formats.base import Options
from pelican.errors import UserInputError
from tests.data.formats.layouts import HOW_MANY, LAYOUTS, encoded, graded, shard
from tests.data.formats.world import (
    brief,
    image,
    imported,
    video,
    write_json,
    write_lines,
)

NEEDS_DATASETS = ("lmms_eval", "hf")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_is_recognised_imported_and_checked(layout: str, tmp_path: Path) -> None:
    write, reader, good, bad = LAYOUTS[layout]
    if reader in NEEDS_DATASETS:
        pytest.importorskip("datasets")
    root = tmp_path / "lab"
    root.mkdir()
    write(root)
    _, fits = sniff(str(root), Options())
    best = max(fits.values())
    assert [name for name, score in fits.items() if score == best] == [reader]
    found = imported(root, tmp_path / "pool")  # opens it in `datasets`, too
    assert (found.reader, len(found.samples), len(found.bad)) == (reader, good, bad), found.reasons
    checked = check(found.pool, [], near=0)
    assert not checked.findings.faulty and not checked.findings.pool_errors


# Layout -> (kind of medium, images, split, kind of answer, its value) of its rows, in their order.
WANTED: dict[str, list[tuple[str, int, str, str, str]]] = {
    "verl, Parquet": [("image", 1, "test", "count", "2"), ("image", 1, "train", "count", "0"),
                      ("image", 1, "train", "count", "1")],
    "verl, JSON lines": [("image", 1, "train", "count", "2")] * 2,
    "verl, text alone": [("text", 0, "train", "count", "72")],
    "EasyR1, Parquet": [("image", 1, "train", "count", "3")] * 2,
    "EasyR1, videos": [("clip", 4, "train", "yes_no", "true")],
    "JSON, a list": [("image", 1, "train", "count", "3"), ("image", 1, "train", "choice", "B of 2")],
    "JSON lines": [("image", 1, "train", "text", "red")],
    "JSON lines, text alone": [("text", 0, "train", "count", "7")],
    "CSV": [("image", 1, "train", "choice", "A of 2")],
    "CSV of Excel": [("image", 1, "train", "count", "3")],
    "TRL, completion": [("image", 1, "train", "count", "2")],
    "lists of frames": [("clip", 2, "train", "interval", "0.5 to 1")] * 2,
    "imagefolder, metadata.csv": [("image", 1, "test", "count", "4"), ("image", 1, "train", "count", "4")],
    "imagefolder, metadata.jsonl": [("image", 2, "train", "yes_no", "false")],
    "imagefolder, metadata.parquet": [("image", 1, "train", "text", "blue"),
                                      ("image", 1, "dev", "points", "mask 64x48 scale 1")],
    "videofolder": [("clip", 4, "train", "yes_no", "false")],
    "WebDataset": [("image", 2, "test", "yes_no", "true"), ("image", 1, "train", "count", "5"),
                   ("image", 1, "train", "text", "green")],
    "LLaMA-Factory v1": [("image", 1, "train", "count", "3")],
    "LLaMA-Factory, Alpaca": [("image", 1, "train", "text", "red"), ("text", 0, "train", "text", "Paris")],
    "LLaMA-Factory, dataset_info.json": [("image", 1, "train", "text", "grey"),
                                         ("clip", 4, "train", "yes_no", "true")],
    "LLaMA-Factory, ShareGPT": [("image", 1, "train", "text", "black"),
                                ("text", 0, "train", "text", "Bonjour")],
}  # fmt: skip


@pytest.mark.parametrize("layout", WANTED)
def test_rows_are_what_the_source_says(layout: str, tmp_path: Path) -> None:
    (tmp_path / "lab").mkdir()
    LAYOUTS[layout][0](tmp_path / "lab")
    samples = imported(tmp_path / "lab", tmp_path / "pool").samples.values()
    found = [(s.media_kind, len(s.images), s.split.value, *brief(s)[:2]) for s in samples]
    assert found == WANTED[layout]
    assert {s.family.value for s in samples if s.media_kind == "text"} <= {"general"}
    assert not any(
        "<image>" in turn.text or "<video>" in turn.text for s in samples for turn in s.turns
    )


def test_a_row_without_a_picture_is_text_alone_only_where_no_field_could_hold_one(
    tmp_path: Path,
) -> None:
    root = tmp_path / "lab"
    image(root / "a.png")
    ask = {"question": "What is 3 + 4?", "answer": "7"}
    write_lines(
        root / "data.jsonl",
        [
            {**ask, "id": "picture", "image": "a.png"},
            {**ask, "id": "text"},
            {**ask, "id": "null", "image": None},
            {**ask, "id": "empty", "images": []},
            {**ask, "id": "coco", "image_id": 7},
            {**ask, "id": "elsewhere", "view": "b.jpg"},
            {**ask, "id": "tag", "question": "<image>What is it?"},
            {**ask, "id": "point", "answer": "[(0.5, 0.5)]"},
        ],
    )
    found = imported(root, tmp_path / "pool")
    kinds = {id.removeprefix("lab/"): s.media_kind for id, s in found.samples.items()}
    assert kinds == {"picture": "image", "text": "text"}
    assert found.bad == {
        "null": "media_missing", "empty": "media_missing", "coco": "media_missing",
        "elsewhere": "media_missing", "tag": "media_tags", "point": "answer",
    }  # fmt: skip
    assert "--text-rows takes it" in found.reasons["null"]
    asked = imported(root, tmp_path / "asked", text_rows=True)
    assert {"lab/null", "lab/empty", "lab/coco"} <= asked.samples.keys()
    assert asked.bad == {"tag": "media_tags", "point": "answer"}


def test_rows_of_verl_that_can_not_be_read(tmp_path: Path) -> None:
    rows = [
        graded(0, "1", images=["gone.png"]),
        graded(1, "", images=[]),
        graded(2, "3", images=[]),
        graded(3, "3", prompt=[{"role": "cook", "content": "x"}]),
        graded(4, "3", reward_model=None),
    ]
    write_lines(tmp_path / "lab" / "train.jsonl", [*rows, graded(9, "7", prompt="3 + 4?")])
    found = imported(tmp_path / "lab", tmp_path / "pool")
    assert [s.id for s in found.samples.values()] == ["lab/cups/9"]
    assert found.bad == {
        "0": "media_missing", "1": "media_tags", "2": "media_tags", "3": "schema", "4": "media_tags",
    }  # fmt: skip


def test_members_of_a_tar(tmp_path: Path) -> None:
    ask = {"question": HOW_MANY, "answer": "1"}
    box = encoded(3)
    root = tmp_path / "lab"
    shard(
        root / "0.tar",
        [
            ("./__index__.json", {}),
            ("good.jpg", encoded(1, "JPEG")), ("good.depth.png", encoded(2)), ("good.json", ask),
            ("good.pkl", b"cos\nsystem\n"),
            ("ordered.10.png", box), ("ordered.9.png", encoded(4)), ("ordered.json", ask),
            ("caption.jpg", encoded(5, "JPEG")), ("caption.txt", "A cup on a table."),
            ("broken.jpg", encoded(6, "JPEG")), ("broken.json", "{"),
            ("film.mp4", b"x"), ("film.json", ask),
            ("latin.png", box), ("latin.txt", "caf\xe9".encode("latin-1")),
            ("named.png", encoded(7)), ("named.question.txt", HOW_MANY), ("named.answer.txt", "2"),
        ],
    )  # fmt: skip
    whole = (root / "0.tar").read_bytes()
    (root / "1.tar").write_bytes(whole[: whole.index(b"ordered.9") + 600])
    (root / "2.tar.gz").write_bytes(b"\x1f\x8b\x08\x00 no gzip")
    found = imported(root, tmp_path / "pool")
    assert {id.removeprefix("lab/"): brief(s)[1] for id, s in found.samples.items()} == {
        "good": "1", "ordered": "1", "named": "2",
    }  # fmt: skip
    assert len(found.samples["lab/good"].images) == 1
    assert found.samples["lab/ordered"].images == (encoded(4), box)
    assert found.bad == {
        "caption": "schema", "broken": "json", "film": "video_unreadable", "latin": "text",
        "good": "duplicate_id", "1.tar": "file", "2.tar.gz": "file",
    }  # fmt: skip


def test_rows_of_llama_factory_that_can_not_be_read(tmp_path: Path) -> None:
    root = tmp_path / "lab"
    rows = [
        {"instruction": "3 + 4?", "output": "7", "id": "good"},
        {"instruction": "And 5?", "output": "12", "history": [["3 + 4?", "7"]], "id": "history"},
        {"instruction": "3 + 4?", "output": "8", "kto_tag": False, "id": "undesired"},
        {"instruction": "Who speaks?", "output": "he", "audios": ["a.wav"], "id": "sound"},
        {"instruction": "", "output": "8", "id": "unasked"},
        {"instruction": "3 + 4?", "output": "", "id": "unanswered"},
        {"instruction": "3 + 4?", "output": "7", "history": ["x"], "id": "wrong-history"},
        {
            "messages": [{"role": "user", "content": [{"type": "audio_url", "value": "a.wav"}]}],
            "id": "v1",
        },
    ]
    write_json(root / "rows.json", rows)
    found = imported(root, tmp_path / "pool")
    assert {id.removeprefix("lab/"): len(s.turns) for id, s in found.samples.items()} == {
        "good": 1, "history": 3,
    }  # fmt: skip
    assert found.bad == {
        "undesired": "answer", "sound": "media_marks", "unasked": "schema",
        "unanswered": "answer_missing", "wrong-history": "schema", "v1": "media_marks",
    }  # fmt: skip


def test_one_data_set_of_dataset_info_is_chosen_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "lab").mkdir()
    LAYOUTS["LLaMA-Factory, dataset_info.json"][0](tmp_path / "lab")
    found = imported(tmp_path / "lab", tmp_path / "pool", config="mine")
    assert (len(found.samples), found.bad) == (1, {})
    with pytest.raises(UserInputError, match="no entry 'his'; it has mine, talks"):
        imported(tmp_path / "lab", tmp_path / "other", config="his")


@pytest.mark.parametrize(
    "entry", [{"columns": ["ask"]}, {"columns": {"images": ["pic"]}}, {"tags": ["who"]}]
)
def test_an_entry_of_dataset_info_that_is_none_is_left_out(
    entry: dict[str, object], tmp_path: Path
) -> None:
    lab = tmp_path / "lab"
    lab.mkdir()
    rows = [{"instruction": "3 + 4?", "output": "7"}]
    write_json(lab / "rows.json", rows)
    named = {"file_name": "rows.json"}
    write_json(lab / "dataset_info.json", {"odd": {**named, **entry}, "good": named})
    found = imported(lab, tmp_path / "pool")
    assert (len(found.samples), found.bad) == (1, {"odd": "schema"})


def test_an_odd_value_is_the_fault_of_its_row_alone(tmp_path: Path) -> None:
    lab = tmp_path / "lab"
    image(lab / "a.png")
    video(lab / "a.mp4", 4.0)
    row = {"question": "Is it open?", "answer": "yes"}
    rows: list[dict[str, object]] = [
        {**row, "id": "whole", "file_name": "a.png"},
        {**row, "id": "nameless", "file_name": ""},
        {**row, "id": "late", "video_file_name": "a.mp4", "start": 10**400},
    ]
    write_lines(lab / "metadata.jsonl", rows)
    found = imported(lab, tmp_path / "pool")
    assert list(found.samples) == ["lab/whole"]
    assert found.bad == {"nameless": "media_missing", "late": "video_window"}


def test_rows_of_a_csv_that_can_not_be_read(tmp_path: Path) -> None:
    root = tmp_path / "lab"
    root.mkdir()
    lines = ["id,question,answer", "a,3 + 4?,7", "b,3 + 5?,8,9", "c,3 + 6?", 'd,"Two\nlines?",2']
    (root / "rows.csv").write_bytes("\n".join(lines).encode() + b"\ne,caf\xe9?,3\n")
    found = imported(root, tmp_path / "pool")
    assert {s.question for s in found.samples.values()} == {"3 + 4?", "Two\nlines?"}
    assert found.bad == {
        "rows.csv, row 2": "file", "c": "answer_missing", "rows.csv, row 5": "text",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("field", "code"),
    [("question", "text"), ("answer", "answer"), ("choices", "text"), ("license", "text"),
     ("id", "schema"), ("scene", "schema")],
)  # fmt: skip
def test_half_a_character_is_the_fault_of_its_row_alone(
    field: str, code: str, tmp_path: Path
) -> None:
    row = {"question": "Which is left?", "choices": ["cup", "bowl"], "answer": "cup", "id": "a"}
    half = "\ud800" if field != "choices" else ["cup", "\ud800"]
    write_lines(tmp_path / "lab" / "x.jsonl", [{**row, field: half}, {**row, "id": "b"}])
    found = imported(tmp_path / "lab", tmp_path / "pool")
    assert list(found.samples) == ["lab/b"]
    assert list(found.bad.values()) == [code]
