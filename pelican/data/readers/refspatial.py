"""RefSpatial-Bench and Where2Place: a referring prompt, an image, and a mask that points must hit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pelican.data.quarantine import RowError
from pelican.data.readers.base import (
    Found,
    Media,
    Options,
    Reader,
    Record,
    Reference,
    Unread,
    record_key,
    text_of,
)
from pelican.data.readers.source import JsonRow, Source, json_rows
from pelican.records import Turn

# RoboPoint and RoboRefer ask for "tuples (x, y) between 0 and 1".
NORMALISED = 1


class RefSpatial(Reader):
    name = "refspatial"
    about = "RefSpatial-Bench, RoboRefer and Where2Place: prompt, image, mask"

    def sniff(self, source: Source, options: Options) -> float:
        for path, row in source.first_rows:
            if {"prompt", "suffix"} <= row.keys() and ("rgb_path" in row or "mask_path" in row):
                return 0.95
            if path.name == "point_questions.jsonl" and "image" in row:
                return 0.95
        return 0.0

    def read(self, source: Source, options: Options) -> Iterator[Found]:
        for path in source.of("question.json", "questions.json", "questions.jsonl", ".jsonl"):
            for row in json_rows(path):
                yield _record(row, source, path)


def _record(row: JsonRow, source: Source, path: Path) -> Found:
    place = f"{source.name(path)}, row {row.number}"
    key = record_key([source.name(path), row.value if row.error is None else row.raw])
    if row.error is not None:
        return Unread(place, key, "", row.error)
    value: dict[str, Any] = row.value
    name = text_of(value, "id", "question_id")
    folder = Path(source.name(path)).parent
    prompt = " ".join(filter(None, [text_of(value, "prompt", "text"), text_of(value, "suffix")]))
    image = text_of(value, "rgb_path", "image_path", "image")
    if not prompt or not image:
        lacking = "prompt" if not prompt else "rgb_path or image"
        return Unread(place, key, name, RowError("schema", f"{lacking} is missing"))
    mask = text_of(value, "mask_path", "mask")
    if not mask and "prompt" not in value:  # Where2Place: masks/07.jpg belongs to images/07.jpg
        mask = (Path("masks") / Path(image).name).as_posix()
        image = image if "/" in image else f"images/{image}"
    # Folders by task: ids count from 0 in each, so the folder is a part of the id.
    task = text_of(value, "category") or (folder.name if folder.name else "")
    return Record(
        place=place,
        key=key,
        turns=(Turn(role="user", text=prompt),),
        media=(Media("image", (folder / image).as_posix()),),
        reference=Reference(
            text_of(value, "answer") or None,
            kind="points",
            mask=Media("image", (folder / mask).as_posix()) if mask else None,
            scale=NORMALISED,
        ),
        id="/".join(filter(None, [task, name])),
        question_type=task,
        source="where2place" if path.name == "point_questions.jsonl" else "refspatial",
        benchmark="where2place" if path.name == "point_questions.jsonl" else "refspatial",
    )


READER = RefSpatial()
