"""LeRobot v3: episodes with videos. Questions are made from what is annotated: task, success, subtasks."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pelican.base.files import resolve_below
from pelican.base.parse import parse_json
from pelican.data.formats.base import (
    Found,
    Media,
    Options,
    Reader,
    Record,
    Reference,
    Source,
    Unread,
    list_of,
    record_key,
)
from pelican.data.formats.lerobot_language import EVENTS, PERSISTENT, Asked, events, lasting
from pelican.data.tables import RowError
from pelican.errors import UserInputError
from pelican.records import Turn

CHOICES = 4
_STEP = re.compile(r"^\s*\d{1,2}[.)]\s*(.+)$", re.MULTILINE)
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"


class LeRobot(Reader):
    name = "lerobot"
    about = "LeRobot v3 data sets: task, success and order questions from the annotations"

    def sniff(self, source: Source, options: Options) -> float:
        info = source.path / "meta" / "info.json"
        return 0.97 if info.is_file() and (source.path / "meta" / "episodes").is_dir() else 0.0

    def read(self, source: Source, options: Options) -> Iterator[Found]:
        data = _DataSet(source.path, options)
        for path in sorted((source.path / "meta" / "episodes").rglob("*.parquet")):
            place = path.relative_to(source.path).as_posix()
            try:
                for batch in pq.ParquetFile(path).iter_batches(batch_size=64):
                    for episode in batch.to_pylist():
                        yield from _questions(data, episode, place)
            except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
                reason = str(error).splitlines()[0]
                why = RowError("file", f"not readable as Parquet ({reason})")
                yield Unread(place, record_key(place), "", why)


@dataclass(frozen=True, slots=True)
class _Span:
    """A subtask of an episode, seconds from its start."""

    name: str
    start_s: float
    end_s: float


class _DataSet:
    """The parts of a data set that all its episodes share."""

    def __init__(self, root: Path, options: Options) -> None:
        self.root = root
        try:
            info = parse_json((root / "meta" / "info.json").read_text())
        except (OSError, ValueError) as error:
            raise UserInputError(f"{root}/meta/info.json can't be read ({error})") from None
        version = str(info.get("codebase_version", ""))
        if not version.startswith("v3"):
            raise UserInputError(
                f"{root} is a LeRobot data set of version {version or 'unknown'}; convert it to v3.0"
                " with lerobot's own script"
            )
        features = info.get("features", {})
        cameras = {
            n: f for n, f in features.items() if isinstance(f, dict) and f.get("dtype") == "video"
        }
        if not cameras:
            raise UserInputError(f"{root} has no video feature in meta/info.json")
        colour = [name for name, feature in cameras.items() if not _is_depth(feature)]
        wish = options.columns.get("video", "")
        if not colour and (not wish or wish == "all"):
            raise UserInputError(
                f"{root} has no camera of colour, only depth ({', '.join(cameras)}); --column"
                f" video={next(iter(cameras))} takes it all the same"
            )
        self.chosen = colour if wish == "all" else _chosen(wish, list(cameras), root)
        # A wrist camera sees too little of the scene to ask about it.
        best = sorted(colour, key=lambda n: ("depth" in n, "wrist" in n, colour.index(n)))[:1]
        self.cameras = self.chosen or best
        self.sizes = {name: _size(features[name]) for name in cameras}
        self.fps = float(info.get("fps") or 30)
        self.video_path = str(info.get("video_path") or VIDEO_PATH)
        self.data_path = str(info.get("data_path") or DATA_PATH)
        self.tasks = _names(root / "meta" / "tasks.parquet", "task")
        self.subtasks = _names(root / "meta" / "subtasks.parquet", "subtask")
        self.robot = str(info.get("robot_type") or "robot")

    def frames(self, episode: dict[str, Any], names: Sequence[str]) -> list[dict[str, Any]]:
        """Some columns of an episode's frames; empty if the data lack them all."""
        try:
            name = self.data_path.format(
                chunk_index=episode.get("data/chunk_index") or 0,
                file_index=episode.get("data/file_index") or 0,
            )
            path = resolve_below(self.root, name)
        except (KeyError, IndexError, AttributeError, ValueError, UserInputError) as error:
            raise RowError("file", f"data_path of meta/info.json: {error}") from None
        try:
            there = [n for n in names if n in pq.read_schema(path).names]
            if not there:
                return []
            wanted = [("episode_index", "=", episode["episode_index"])]
            table = pq.read_table(path, columns=["timestamp", *there], filters=wanted)
            lasting = table.column(PERSISTENT)[:1].to_pylist() if PERSISTENT in there else []
            # Every frame has the same, which as objects may fill the memory.
            rest = table.select([n for n in table.column_names if n != PERSISTENT])
            rows: list[dict[str, Any]] = rest.to_pylist()
            if lasting:
                rows[0][PERSISTENT] = lasting[0]
            return rows
        except (pa.ArrowException, OSError) as error:
            raise RowError(
                "file", f"{path.name} can't be read ({str(error).splitlines()[0]})"
            ) from None


def _is_depth(feature: dict[str, Any]) -> bool:
    """Whether a camera's frames are distances: no person would answer by them."""
    about = feature.get("info") or feature.get("video_info")
    said = [feature, about if isinstance(about, dict) else {}]
    return any(part.get(f"{of}is_depth_map") for part in said for of in ("", "video."))


def _names(path: Path, column: str) -> dict[int, str]:
    """Index -> text of tasks.parquet or subtasks.parquet; empty if there is none."""
    if not path.is_file():
        return {}
    try:
        rows = pq.read_table(path).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise UserInputError(f"{path} can't be read ({str(error).splitlines()[0]})") from None
    # pandas keeps the text as an index, under its own name or none
    texts = (column, "__index_level_0__", "index")
    found = {}
    for row in rows:
        text = next((row[t] for t in texts if isinstance(row.get(t), str)), None)
        if text is not None and row.get(f"{column}_index") is not None:
            found[int(row[f"{column}_index"])] = text
    return found


def _chosen(wish: str, cameras: Sequence[str], root: Path) -> list[str]:
    """The cameras that a person names, by whole names or their last parts, with commas between; or all."""
    if wish == "all" and wish not in cameras:
        return list(cameras)
    found = []
    for name in filter(None, (part.strip() for part in wish.split(","))):
        fits = [c for c in cameras if name in (c, c.rpartition(".")[2])]
        if len(fits) != 1:
            raise UserInputError(
                f"{root} has {'no' if not fits else 'more than one'} camera {name!r}; it has"
                f" {', '.join(cameras)}"
            )
        found += fits
    return found


def _size(feature: Mapping[str, Any]) -> tuple[int, int]:
    """(width, height) of a camera's pictures; `names` says what the numbers of `shape` are."""
    shape, names = list_of(feature.get("shape")), map(str, list_of(feature.get("names")))
    of = dict(zip(names, shape, strict=False))
    if "height" not in of or "width" not in of:
        of = dict(zip(("height", "width"), shape[1:] if shape[:1] == [3] else shape, strict=False))
    return int(of.get("width") or 1), int(of.get("height") or 1)


def _questions(data: _DataSet, episode: dict[str, Any], file: str) -> Iterator[Found]:
    number = episode.get("episode_index")
    place = f"{file}, episode {number}"
    key = record_key({k: v for k, v in episode.items() if not k.startswith("stats/")})
    tasks = [str(t) for t in episode.get("tasks") or [] if str(t).strip()]
    several = len(data.cameras) > 1
    made: list[_Made | RowError] = []
    try:
        said = _annotations(data, episode)
        for camera in data.cameras:
            media = _video(data, episode, camera)
            suffix = f"/{camera.rpartition('.')[2]}" if several else ""
            for one in _made(data, f"ep{number}", tasks, said, media):
                made.append((f"{one[0]}{suffix}", *one[1:]))
        made += _asked(data, episode, said)
        if not made:
            raise RowError("answer_missing", "the episode has no annotation to ask about")
    except RowError as error:
        yield Unread(place, key, f"ep{number}", error)
        return
    for at, question in enumerate(made):
        if isinstance(question, RowError):
            yield Unread(f"{place}, question {at}", f"{key}/{at}", f"ep{number}/{at}", question)
            continue
        kind, text, reference, window, family, dimension = question
        yield Record(
            place=f"{place}, {kind}",
            key=f"{key}/{kind}",
            turns=(Turn(role="user", text=text),),
            media=(window,),
            reference=reference,
            id=f"ep{number}/{kind}",
            question_type=kind.partition("/")[0],
            scene=f"{data.root.name}/ep{number}",
            family=family,
            dimension=dimension,
        )


def _asked(data: _DataSet, episode: dict[str, Any], said: _Said) -> Iterator[_Made | RowError]:
    """The questions of the language columns, each about one frame of the camera that it names."""
    for number, one in enumerate(said.asked):
        if isinstance(one, RowError):
            yield one
        elif not data.chosen or one.camera in data.chosen:
            video = _video(data, episode, one.camera)
            frame = replace(
                video, kind="still", start_s=(video.start_s or 0.0) + one.time_s, end_s=None
            )
            yield f"vqa/{number}", one.question, one.reference, frame, "", ""


def _video(data: _DataSet, episode: dict[str, Any], camera: str) -> Media:
    prefix = f"videos/{camera}"
    try:
        path = data.video_path.format(
            video_key=camera,
            chunk_index=episode[f"{prefix}/chunk_index"],
            file_index=episode[f"{prefix}/file_index"],
        )
        start, end = episode[f"{prefix}/from_timestamp"], episode[f"{prefix}/to_timestamp"]
        return Media("video", path, start_s=float(start), end_s=float(end))
    except (KeyError, TypeError, ValueError) as error:
        raise RowError("schema", f"the episode does not say where its video is ({error})") from None


@dataclass(frozen=True, slots=True)
class _Said:
    """What is annotated of an episode; `success` is None if nothing says so.

    `plan`: its steps, as they are at its start. `also`: its task in other words.
    """

    spans: list[_Span]
    success: bool | None
    plan: list[str]
    also: set[str]
    asked: list[Asked | RowError]


def _annotations(data: _DataSet, episode: dict[str, Any]) -> _Said:
    """Subtasks in their order, success, and what the language columns say."""
    said = next((episode[n] for n in ("success", "is_success") if n in episode), None)
    success = bool(said) if said is not None else None
    names = ["subtask_index"] if data.subtasks else []
    more = [PERSISTENT, EVENTS] + ([] if success is not None else ["next.success"])
    frames = data.frames(episode, names + more)
    if success is None and frames and frames[0].get("next.success") is not None:
        success = any(_flag(row["next.success"]) for row in frames)
    spans: list[_Span] = []
    step = 1 / data.fps
    for row in frames if names else []:
        name = data.subtasks.get(int(row["subtask_index"]), "") if "subtask_index" in row else ""
        time = float(row["timestamp"])
        if spans and spans[-1].name == name:
            spans[-1] = _Span(name, spans[-1].start_s, time + step)
        else:
            spans.append(_Span(name, time, time + step))
    lasts = list_of(frames[0].get(PERSISTENT)) if frames else []
    if not spans and frames:
        starts = lasting(lasts, "subtask")
        ends = [*(time for time, _ in starts[1:]), float(frames[-1]["timestamp"]) + step]
        spans = [_Span(name, at, end) for (at, name), end in zip(starts, ends, strict=False)]
    plans = lasting(lasts, "plan")
    return _Said(
        [span for span in spans if span.name],
        success,
        [step.strip() for step in _STEP.findall(plans[0][1])] if plans else [],
        {text for _, text in lasting(lasts, "task_aug")},
        [
            asked
            for row in frames
            for asked in events(list_of(row.get(EVENTS)), float(row["timestamp"]), data.sizes)
        ],
    )


def _flag(value: Any) -> bool:
    return bool(value[0]) if isinstance(value, list) else bool(value)


_Made = tuple[str, str, Reference, Media, str, str]


def _made(
    data: _DataSet,
    salt: str,
    tasks: list[str],
    said: _Said,
    media: Media,
) -> Iterator[_Made]:
    """Every question that an episode allows: (kind, question, reference, window, family, dimension)."""
    task = tasks[0] if tasks else ""
    spans, success = said.spans, said.success
    other_tasks = sorted(set(data.tasks.values()) - set(tasks) - said.also)
    if task and other_tasks:
        options = _mixed(task, other_tasks, salt)
        yield (
            "task",
            "Which task does the robot carry out?",
            Reference(task, "choice", options),
            media,
            "temporal",
            "scene_action_understanding",
        )
    if task and success is not None:
        question = f"The robot's task was: {task}. Did it succeed? Answer yes or no."
        yield (
            "success",
            question,
            Reference(success),
            media,
            "success",
            "scene_action_understanding",
        )
    names = [span.name for span in spans]
    if len(names) > 1 and len(set(names)) == len(names):
        shown = "; ".join(sorted(names, key=lambda n: _hash(salt, n)))
        yield (
            "order",
            f"In which order did the robot do these: {shown}?",
            Reference({"kind": "order", "items": names}, "pelican"),
            media,
            "temporal",
            "temporal_sequential",
        )
        chosen = spans[int(_hash(salt, "interval"), 16) % len(spans)]
        yield (
            "interval",
            f"When did the robot do this: {chosen.name}? Give start and end in seconds.",
            Reference(
                {"kind": "interval", "start": chosen.start_s, "end": chosen.end_s}, "pelican"
            ),
            media,
            "temporal",
            "temporal_sequential",
        )
    if len(said.plan) > 1 and task:
        yield (
            "plan",
            f"The robot's task is: {task}. Which steps does it take, in their order?",
            Reference({"kind": "steps", "steps": said.plan}, "pelican"),
            media,
            "planning",
            "decision_planning",
        )
    if len(names) > 2 and task:
        at = 1 + int(_hash(salt, "next"), 16) % (len(spans) - 1)
        rest = sorted({n for n in [*names, *data.subtasks.values()] if n != names[at]})
        window = Media(
            "video", media.path, start_s=media.start_s, end_s=_until(media, spans[at - 1])
        )
        yield (
            "next_step",
            f"The robot's task is: {task}. What is its next step?",
            Reference(names[at], "choice", _mixed(names[at], rest, f"{salt}/next")),
            window,
            "planning",
            "decision_planning",
        )


def _until(media: Media, span: _Span) -> float:
    return (media.start_s or 0.0) + span.end_s


def _hash(*parts: str) -> str:
    return hashlib.blake2b("/".join(parts).encode(), digest_size=6).hexdigest()


def _mixed(right: str, wrong: Sequence[str], salt: str) -> tuple[str, ...]:
    """The right option among wrong ones, in an order that depends on the episode alone."""
    few = sorted(wrong, key=lambda text: _hash(salt, "wrong", text))[: CHOICES - 1]
    return tuple(sorted([right, *few], key=lambda text: _hash(salt, "place", text)))


READERS = (LeRobot(),)
