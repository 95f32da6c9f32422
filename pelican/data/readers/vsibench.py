"""VSI-Bench's styles: conversations with a `video` and `question_type`, or its published rows."""

from __future__ import annotations

from collections.abc import Iterator
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
from pelican.data.readers.chat import is_chat, read_chat
from pelican.data.readers.source import JsonRow, Source, json_rows
from pelican.records import Turn

# The unit that VSI-Bench's questions ask for (arXiv 2412.14171, appendix on templates).
UNITS = {
    "object_abs_distance": "m",
    "object_size_estimation": "cm",
    "room_size_estimation": "m",  # square metres; relative accuracy knows no unit
}


class VsiBench(Reader):
    name = "vsibench"
    about = "conversations, video a path, question_type, data_source; or VSI-Bench's own rows"

    def sniff(self, source: Source, options: Options) -> float:
        for _, row in source.first_rows:
            if "question_type" not in row:
                continue
            if is_chat(row, "conversations", "from", "value") and isinstance(row.get("video"), str):
                return 0.95
            if "scene_name" in row and "ground_truth" in row:
                return 0.95
        return 0.0

    def read(self, source: Source, options: Options) -> Iterator[Found]:
        for path in source.of(".json", ".jsonl"):
            for row in json_rows(path):
                place = f"{source.name(path)}, row {row.number}"
                if row.error is None and "conversations" in row.value:
                    kind = text_of(row.value, "question_type")
                    if kind in UNITS and not row.value.get("unit"):
                        row.value["unit"] = UNITS[kind]
                    yield from read_chat(row, place, "conversations", options)
                else:
                    yield _published(row, place)


def _published(row: JsonRow, place: str) -> Found:
    """A row of VSI-Bench's test.jsonl: the video is `<dataset>/<scene_name>.mp4`."""
    key = record_key(row.value if row.error is None else row.raw)
    if row.error is not None:
        return Unread(place, key, "", row.error)
    value: dict[str, Any] = row.value
    name, kind = text_of(value, "id", "question_id"), text_of(value, "question_type")
    question, scene = text_of(value, "question"), text_of(value, "scene_name")
    if not question or not scene or value.get("ground_truth") is None:
        lacking = "question" if not question else "scene_name" if not scene else "ground_truth"
        return Unread(place, key, name, RowError("schema", f"{lacking} is missing"))
    choices = [str(option) for option in value.get("options") or ()]
    return Record(
        place=place,
        key=key,
        turns=(Turn(role="user", text="\n".join([question, *choices])),),
        media=(Media("video", f"{text_of(value, 'dataset')}/{scene}.mp4"),),
        reference=Reference(
            str(value["ground_truth"]), options=tuple(choices), unit=UNITS.get(kind, "")
        ),
        id=name,
        question_type=kind,
        source="vsibench",
        scene=scene,
        benchmark="vsibench",
    )


READER = VsiBench()
