"""Published benchmarks as pools: EgoSchema, MVBench, OpenEQA, RefSpatial, VSI-Bench."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pelican.data.formats.base import (
    Found,
    JsonRow,
    Media,
    Options,
    Reader,
    Record,
    Reference,
    Source,
    Unread,
    json_rows,
    list_of,
    number_of,
    record_key,
    text_of,
)
from pelican.data.formats.chat import VIDEO_ENDINGS, is_chat, read_chat
from pelican.data.tables import RowError
from pelican.errors import UserInputError
from pelican.records import Turn

# EgoSchema: `questions.json` with "option 0" to "option 4", answers in a file of their own.


class EgoSchema(Reader):
    name = "egoschema"
    about = "q_uid, question, option 0 to option 4; answers in subset_answers.json"

    def sniff(self, source: Source, options: Options) -> float:
        rows = [row for _, row in source.first_rows]
        return 0.95 if any({"q_uid", "option 0"} <= row.keys() for row in rows) else 0.0

    def read(self, source: Source, options: Options) -> Iterator[Found]:
        answers = _answers(source)
        for path in source.of(".json", ".jsonl"):
            if path.name.endswith("answers.json"):
                continue
            for row in json_rows(path):
                place = f"{source.name(path)}, row {row.number}"
                if row.error is not None:
                    yield Unread(place, record_key(row.raw), "", row.error)
                    continue
                value = row.value
                name, question = text_of(value, "q_uid"), text_of(value, "question")
                choices = [str(value[f"option {i}"]) for i in range(26) if f"option {i}" in value]
                answer = value.get("answer", value.get("truth", answers.get(name)))
                key = record_key([value, answer])
                if answer is None:
                    error = RowError("answer_missing", "no answer is published for this question")
                    yield Unread(place, key, name, error)
                elif not name or not question or len(choices) < 2:
                    error = RowError("schema", "q_uid, question or the options are missing")
                    yield Unread(place, key, name, error)
                else:
                    yield Record(
                        place=place,
                        key=key,
                        turns=(Turn(role="user", text=question),),
                        media=(Media("video", f"{name}.mp4"),),
                        reference=Reference(answer, "choice", tuple(choices), index=True),
                        id=name,
                        source="egoschema",
                        scene=name,
                        benchmark="egoschema",
                    )


def _answers(source: Source) -> dict[str, object]:
    """q_uid -> index of the option, of every `*answers.json`."""
    found: dict[str, object] = {}
    folder = source.path if source.path.is_dir() else source.path.parent
    for path in sorted(Path(folder).rglob("*answers.json")):
        try:
            value = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise UserInputError(f"{path} can't be read as JSON ({error})") from None
        if isinstance(value, dict):
            found.update(value)
    return found


EGOSCHEMA = EgoSchema()

# MVBench: one JSON file per task in `json/`: video, question, candidates, answer, start, end.

FRAMES_FPS = 3.0  # MVBench's folders of frames (TVQA) hold three a second


class MvBench(Reader):
    name = "mvbench"
    about = "a JSON file per task: video, question, candidates, answer, start and end"

    def sniff(self, source: Source, options: Options) -> float:
        rows = [row for _, row in source.first_rows]
        wanted = {"video", "question", "candidates", "answer"}
        return 0.95 if any(wanted <= row.keys() for row in rows) else 0.0

    def read(self, source: Source, options: Options) -> Iterator[Found]:
        for path in source.of(".json", ".jsonl"):
            task = path.stem
            for row in json_rows(path):
                place = f"{source.name(path)}, row {row.number}"
                key = record_key([task, row.value if row.error is None else row.raw])
                if row.error is not None:
                    yield Unread(place, key, "", row.error)
                    continue
                value = row.value
                name = f"{task}/{text_of(value, 'question_id') or row.number - 1}"
                video, question = text_of(value, "video"), text_of(value, "question")
                choices = tuple(str(option) for option in list_of(value.get("candidates")))
                if not video or not question or value.get("answer") is None:
                    error = RowError("schema", "video, question or answer is missing")
                    yield Unread(place, key, name, error)
                    continue
                folder = not video.lower().endswith((*VIDEO_ENDINGS, ".gif"))
                yield Record(
                    place=place,
                    key=key,
                    turns=(Turn(role="user", text=question),),
                    media=(
                        Media(
                            "frames" if folder else "video",
                            video,
                            start_s=number_of(value, "start"),
                            end_s=number_of(value, "end"),
                            fps=(number_of(value, "fps") or FRAMES_FPS) if folder else None,
                        ),
                    ),
                    reference=Reference(value["answer"], "choice", choices),
                    id=name,
                    question_type=task,
                    source="mvbench",
                    scene=video,
                    benchmark="mvbench",
                )


MVBENCH = MvBench()

# Open-EQA: one JSON list of question, answer, category and episode; frames in folders by episode.


class OpenEqa(Reader):
    name = "openeqa"
    about = "question, answer, category, episode_history; a folder of frames or a video by episode"

    def sniff(self, source: Source, options: Options) -> float:
        rows = [row for _, row in source.first_rows]
        return 0.95 if any({"episode_history", "question"} <= row.keys() for row in rows) else 0.0

    def read(self, source: Source, options: Options) -> Iterator[Found]:
        for path in source.of(".json", ".jsonl"):
            folder = Path(source.name(path)).parent.as_posix()
            for row in json_rows(path):
                place = f"{source.name(path)}, row {row.number}"
                key = record_key(row.value if row.error is None else row.raw)
                if row.error is not None:
                    yield Unread(place, key, "", row.error)
                    continue
                value = row.value
                name = text_of(value, "question_id")
                question, answer = text_of(value, "question"), text_of(value, "answer")
                episode = text_of(value, "episode_history")
                lacking = [
                    n
                    for n, text in [
                        ("question", question),
                        ("answer", answer),
                        ("episode_history", episode),
                    ]
                    if not text
                ]
                if lacking:
                    error = RowError("schema", f"{', '.join(lacking)} is missing")
                    yield Unread(place, key, name, error)
                    continue
                frames = f"{folder}/frames/{episode}"
                there = os.path.isdir(source.root / frames)
                yield Record(
                    place=place,
                    key=key,
                    turns=(Turn(role="user", text=question),),
                    # `fps` None: the frames' own rate is not published, one a second is assumed
                    media=(Media("frames", frames if there else episode),),
                    reference=Reference(
                        answer,
                        aliases=tuple(str(a) for a in list_of(value.get("extra_answers"))),
                    ),
                    id=name,
                    question_type=text_of(value, "category"),
                    source="openeqa",
                    scene=episode,
                    benchmark="openeqa",
                )


OPENEQA = OpenEqa()

# RefSpatial-Bench and Where2Place: a referring prompt, an image, and a mask that points must hit.

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


REFSPATIAL = RefSpatial()

# VSI-Bench's styles: conversations with a `video` and `question_type`, or its published rows.

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


VSIBENCH = VsiBench()
