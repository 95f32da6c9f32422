"""Published benchmarks as pools: EgoSchema, MVBench, OpenEQA, RefSpatial, VSI-Bench.

What a row of each says is read in one place, by the functions `…_item`; `pelican.evaluation.published`
uses them, too, and adds the original prompt, where the videos lie, and the grading.
"""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from pelican.base.parse import parse_json
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
    time_of,
)
from pelican.data.formats.chat import is_chat, read_chat
from pelican.data.formats.medium import VIDEO_ENDINGS
from pelican.data.tables import RowError
from pelican.errors import UserInputError
from pelican.records import Turn

# What a row says, the same for all of them.


@dataclass(frozen=True, slots=True)
class Item:
    """One question as its row has it, not stripped, because a prompt must be the original's.

    `media`: the path of a video, an image or a folder of frames as the row names it. `answer` is a
    text, a number, or None where the row has none. `suffix`: RefSpatial's request for a form, which
    follows the question.
    """

    id: str
    question: str
    media: str
    answer: object = None
    options: tuple[str, ...] = ()
    category: str = ""
    scene: str = ""
    mask: str = ""
    start_s: float | None = None
    end_s: float | None = None
    aliases: tuple[str, ...] = ()
    suffix: str = ""


def _required(row: Mapping[str, Any], *names: str) -> str:
    """The first of these fields that holds a text or a number. Raises RowError if none does."""
    for name in names:
        if text_of(row, name):
            return str(row[name])
    raise RowError("schema", f"{' or '.join(names)} is missing")


class _JsonReader(Reader):
    """JSON files of one benchmark; a row in which something is wrong is an `Unread`.

    The methods below get a row with its `file`, whose path is below the source.
    """

    endings: tuple[str, ...] = (".json", ".jsonl")

    def read(self, source: Source, options: Options) -> Iterator[Found]:
        for path in source.of(*self.endings):
            file = PurePosixPath(source.name(path))  # made here, because rows are many
            for row in json_rows(path):
                yield self._found(row, file, source)

    def _found(self, row: JsonRow, file: PurePosixPath, source: Source) -> Found:
        place = f"{file}, row {row.number}"
        if row.error is not None:
            return Unread(place, record_key(self.identity(row.raw, file)), "", row.error)
        key = record_key(self.identity(row.value, file))
        try:
            return _record(place, key, *self.item(row, file, source))
        except RowError as error:
            return Unread(place, key, self.row_id(row, file), error)

    def identity(self, value: object, file: PurePosixPath) -> object:
        """What a row's key is the digest of. `value`: the row, or its text if that is no JSON."""
        return value

    def row_id(self, row: JsonRow, file: PurePosixPath) -> str:
        """The id of a row, also of one that is wrong; "" if it has none."""
        return text_of(row.value, "id", "question_id")

    @abstractmethod
    def item(
        self, row: JsonRow, file: PurePosixPath, source: Source
    ) -> tuple[Item, Media, Reference, str]:
        """The row, its medium, its answer and its benchmark. Raises RowError."""


def _record(
    place: str, key: str, item: Item, media: Media, reference: Reference, benchmark: str
) -> Record:
    return Record(
        place=place,
        key=key,
        turns=(Turn(role="user", text=item.question.strip()),),
        media=(media,),
        reference=reference,
        id=item.id,
        question_type=item.category,
        source=benchmark,
        scene=item.scene,
        benchmark=benchmark,
    )


# EgoSchema: `questions.json` with "option 0" to "option 4", answers in a file of their own.

_ANSWER = "_answer"  # of a row, once it is joined to its answer


def egoschema_item(row: Mapping[str, Any]) -> Item:
    """A row with its answer: of questions.json, or of lmms-eval's Parquet with a list `option`."""
    name = _required(row, "q_uid", "video_idx").strip()
    listed = list_of(row.get("option")) or [
        row[f"option {i}"] for i in range(26) if f"option {i}" in row
    ]
    if len(listed) < 2:
        raise RowError("schema", "option 0 and option 1 are missing")
    return Item(
        id=name,
        question=_required(row, "question"),
        media=f"{name}.mp4",
        answer=row.get(_ANSWER),
        options=tuple(str(option) for option in listed),
        scene=name,
    )


def join_answer(row: Mapping[str, Any], answers: Mapping[str, object]) -> dict[str, Any]:
    """The row with its answer: its own, else that of its `q_uid` in `answers`, else None."""
    own = row.get("answer", row.get("truth"))
    return {**row, _ANSWER: answers.get(text_of(row, "q_uid")) if own is None else own}


def read_answers(folder: Path) -> dict[str, object]:
    """q_uid -> number of the option, from every `*answers.json` below `folder`."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*answers.json")):
        try:
            value = parse_json(path.read_text())
        except (OSError, ValueError) as error:
            raise UserInputError(f"{path} can't be read as JSON ({error})") from None
        if isinstance(value, dict):
            found.update(value)
    return found


class EgoSchema(_JsonReader):
    name = "egoschema"
    about = "q_uid, question, option 0 to option 4; answers in subset_answers.json"

    def sniff(self, source: Source, options: Options) -> float:
        rows = [row for _, row in source.first_rows]
        return 0.95 if any({"q_uid", "option 0"} <= row.keys() for row in rows) else 0.0

    def read(self, source: Source, options: Options) -> Iterator[Found]:
        answers = read_answers(source.path if source.path.is_dir() else source.path.parent)
        for path in source.of(*self.endings):
            if path.name.endswith("answers.json"):
                continue
            file = PurePosixPath(source.name(path))
            for row in json_rows(path):
                if row.error is None:
                    row.value = join_answer(row.value, answers)
                yield self._found(row, file, source)

    def identity(self, value: object, file: PurePosixPath) -> object:
        if not isinstance(value, dict):
            return value
        return [{name: value[name] for name in value if name != _ANSWER}, value[_ANSWER]]

    def row_id(self, row: JsonRow, file: PurePosixPath) -> str:
        return text_of(row.value, "q_uid")

    def item(
        self, row: JsonRow, file: PurePosixPath, source: Source
    ) -> tuple[Item, Media, Reference, str]:
        if row.value[_ANSWER] is None:
            raise RowError("answer_missing", "no answer is published for this question")
        item = egoschema_item(row.value)
        reference = Reference(item.answer, "choice", item.options, index=True)
        return item, Media("video", item.media), reference, self.name


# MVBench: one JSON file per task in `json/`: video, question, candidates, answer, start, end.

FRAMES_FPS = 3.0  # MVBench's folders of frames (TVQA) hold three a second


def mvbench_item(row: Mapping[str, Any], task: str, id: str) -> Item:
    """A row of `json/<task>.json`."""
    video = _required(row, "video").strip()
    if row.get("answer") is None:
        raise RowError("schema", "answer is missing")
    return Item(
        id=id,
        question=_required(row, "question"),
        media=video,
        answer=row["answer"],
        options=tuple(str(option) for option in list_of(row.get("candidates"))),
        category=task,
        scene=video,
        start_s=time_of(row, "start"),
        end_s=time_of(row, "end"),
    )


class MvBench(_JsonReader):
    name = "mvbench"
    about = "a JSON file per task: video, question, candidates, answer, start and end"

    def sniff(self, source: Source, options: Options) -> float:
        rows = [row for _, row in source.first_rows]
        wanted = {"video", "question", "candidates", "answer"}
        return 0.95 if any(wanted <= row.keys() for row in rows) else 0.0

    def identity(self, value: object, file: PurePosixPath) -> object:
        return [file.stem, value]

    def row_id(self, row: JsonRow, file: PurePosixPath) -> str:
        return f"{file.stem}/{text_of(row.value, 'question_id') or row.number - 1}"

    def item(
        self, row: JsonRow, file: PurePosixPath, source: Source
    ) -> tuple[Item, Media, Reference, str]:
        item = mvbench_item(row.value, file.stem, self.row_id(row, file))
        is_folder = not item.media.lower().endswith((*VIDEO_ENDINGS, ".gif"))
        media = Media(
            "frames" if is_folder else "video",
            item.media,
            start_s=item.start_s,
            end_s=item.end_s,
            fps=(number_of(row.value, "fps") or FRAMES_FPS) if is_folder else None,
        )
        return item, media, Reference(item.answer, "choice", item.options), self.name


# Open-EQA: one JSON list of question, answer, category and episode; frames in folders by episode.


def openeqa_item(row: Mapping[str, Any]) -> Item:
    """A row of open-eqa-v0.json; `media` is the episode, a folder of frames somewhere."""
    episode = _required(row, "episode_history").strip()
    return Item(
        id=text_of(row, "question_id"),
        question=_required(row, "question"),
        media=episode,
        answer=_required(row, "answer"),
        category=text_of(row, "category"),
        scene=episode,
        aliases=tuple(str(answer) for answer in list_of(row.get("extra_answers"))),
    )


class OpenEqa(_JsonReader):
    name = "openeqa"
    about = "question, answer, category, episode_history; a folder of frames or a video by episode"

    def sniff(self, source: Source, options: Options) -> float:
        rows = [row for _, row in source.first_rows]
        return 0.95 if any({"episode_history", "question"} <= row.keys() for row in rows) else 0.0

    def item(
        self, row: JsonRow, file: PurePosixPath, source: Source
    ) -> tuple[Item, Media, Reference, str]:
        item = openeqa_item(row.value)
        frames = f"{file.parent}/frames/{item.media}"
        there = os.path.isdir(source.root / frames)
        # Without `fps`: the frames' own rate is not published, one a second is assumed.
        media = Media("frames", frames if there else item.media)
        reference = Reference(str(item.answer).strip(), aliases=item.aliases)
        return item, media, reference, self.name


# RefSpatial-Bench and Where2Place: a referring prompt, an image, and a mask that points must hit.

# RoboPoint and RoboRefer ask for "tuples (x, y) between 0 and 1".
NORMALISED = 1


def pointing_item(row: Mapping[str, Any]) -> Item:
    """A row of RefSpatial's question.json or of Where2Place's point_questions.jsonl."""
    image = _required(row, "rgb_path", "image_path", "image").strip()
    return Item(
        id=text_of(row, "id", "question_id"),
        question=_required(row, "prompt", "text"),
        suffix=str(row["suffix"]) if text_of(row, "suffix") else "",
        media=image,
        answer=text_of(row, "answer") or None,
        category=text_of(row, "category"),
        scene=image,
        mask=text_of(row, "mask_path", "mask"),
    )


class RefSpatial(_JsonReader):
    name = "refspatial"
    about = "RefSpatial-Bench, RoboRefer and Where2Place: prompt, image, mask"
    endings = ("question.json", "questions.json", "questions.jsonl", ".jsonl")

    def sniff(self, source: Source, options: Options) -> float:
        for path, row in source.first_rows:
            if {"prompt", "suffix"} <= row.keys() and ("rgb_path" in row or "mask_path" in row):
                return 0.95
            if path.name == "point_questions.jsonl" and "image" in row:
                return 0.95
        return 0.0

    def identity(self, value: object, file: PurePosixPath) -> object:
        return [str(file), value]

    def item(
        self, row: JsonRow, file: PurePosixPath, source: Source
    ) -> tuple[Item, Media, Reference, str]:
        item, folder = pointing_item(row.value), file.parent
        image, mask = item.media, item.mask
        if not mask and "prompt" not in row.value:  # Where2Place: masks/07.jpg is of images/07.jpg
            mask = (Path("masks") / Path(image).name).as_posix()
            image = image if "/" in image else f"images/{image}"
        # Folders by task: ids count from 0 in each, so the folder is a part of the id.
        task = item.category or folder.name
        reference = Reference(
            item.answer,
            kind="points",
            mask=Media("image", (folder / mask).as_posix()) if mask else None,
            scale=NORMALISED,
        )
        item = replace(
            item,
            id="/".join(filter(None, [task, item.id])),
            question=f"{item.question.strip()} {item.suffix.strip()}",
            category=task,
            scene="",
        )
        media = Media("image", (folder / image).as_posix())
        is_where2place = file.name == "point_questions.jsonl"
        return item, media, reference, "where2place" if is_where2place else self.name


# VSI-Bench's styles: conversations with a `video` and `question_type`, or its published rows.

# The unit that VSI-Bench's questions ask for (arXiv 2412.14171, appendix on templates).
UNITS = {
    "object_abs_distance": "m",
    "object_size_estimation": "cm",
    "room_size_estimation": "m",  # square metres; relative accuracy knows no unit
}


def vsibench_item(row: Mapping[str, Any]) -> Item:
    """A row of test.jsonl: the video is `<dataset>/<scene_name>.mp4`."""
    scene = _required(row, "scene_name").strip()
    if row.get("ground_truth") is None:
        raise RowError("schema", "ground_truth is missing")
    return Item(
        id=text_of(row, "id", "question_id"),
        question=_required(row, "question"),
        media=f"{text_of(row, 'dataset')}/{scene}.mp4",
        answer=str(row["ground_truth"]),
        options=tuple(str(option) for option in list_of(row.get("options"))),
        category=text_of(row, "question_type"),
        scene=scene,
    )


class VsiBench(_JsonReader):
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
        for path in source.of(*self.endings):
            file = PurePosixPath(source.name(path))
            for row in json_rows(path):
                if row.error is not None or "conversations" not in row.value:
                    yield self._found(row, file, source)
                    continue
                kind = text_of(row.value, "question_type")
                if kind in UNITS and not row.value.get("unit"):
                    row.value["unit"] = UNITS[kind]
                yield from read_chat(row, f"{file}, row {row.number}", "conversations", options)

    def item(
        self, row: JsonRow, file: PurePosixPath, source: Source
    ) -> tuple[Item, Media, Reference, str]:
        item = vsibench_item(row.value)
        reference = Reference(item.answer, options=item.options, unit=UNITS.get(item.category, ""))
        asked = replace(item, question="\n".join([item.question.strip(), *item.options]))
        return asked, Media("video", item.media), reference, self.name


READERS = (EgoSchema(), MvBench(), OpenEqa(), RefSpatial(), VsiBench())
