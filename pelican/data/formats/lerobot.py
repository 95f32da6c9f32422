"""LeRobot v3: episodes with videos. Questions are made from what is annotated: task, success, subtasks."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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
    record_key,
)
from pelican.data.tables import RowError
from pelican.errors import UserInputError
from pelican.records import Turn

CHOICES = 4
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
        wish = options.columns.get("video", "")
        if wish and wish not in cameras:
            raise UserInputError(f"{root} has no camera {wish!r}; it has {', '.join(cameras)}")
        if not cameras:
            raise UserInputError(f"{root} has no video feature in meta/info.json")
        colour = [name for name, feature in cameras.items() if not _is_depth(feature)]
        if not wish and not colour:
            raise UserInputError(
                f"{root} has no camera of colour, only depth ({', '.join(cameras)}); --column"
                f" video={next(iter(cameras))} takes it all the same"
            )
        # A wrist camera sees too little of the scene to ask about it.
        self.camera = wish or min(
            colour, key=lambda n: ("depth" in n, "wrist" in n, colour.index(n))
        )
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
            rows: list[dict[str, Any]] = pq.read_table(
                path, columns=["timestamp", *there], filters=wanted
            ).to_pylist()
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


def _questions(data: _DataSet, episode: dict[str, Any], file: str) -> Iterator[Found]:
    number = episode.get("episode_index")
    place = f"{file}, episode {number}"
    key = record_key({k: v for k, v in episode.items() if not k.startswith("stats/")})
    try:
        media = _video(data, episode)
        tasks = [str(t) for t in episode.get("tasks") or [] if str(t).strip()]
        spans, success = _annotations(data, episode)
        made = list(_made(data, f"ep{number}", tasks, spans, success, media))
        if not made:
            raise RowError("answer_missing", "the episode has no annotation to ask about")
    except RowError as error:
        yield Unread(place, key, f"ep{number}", error)
        return
    for kind, question, reference, window, family, dimension in made:
        yield Record(
            place=f"{place}, {kind}",
            key=f"{key}/{kind}",
            turns=(Turn(role="user", text=question),),
            media=(window,),
            reference=reference,
            id=f"ep{number}/{kind}",
            question_type=kind,
            scene=f"{data.root.name}/ep{number}",
            family=family,
            dimension=dimension,
        )


def _video(data: _DataSet, episode: dict[str, Any]) -> Media:
    prefix = f"videos/{data.camera}"
    try:
        path = data.video_path.format(
            video_key=data.camera,
            chunk_index=episode[f"{prefix}/chunk_index"],
            file_index=episode[f"{prefix}/file_index"],
        )
        start, end = episode[f"{prefix}/from_timestamp"], episode[f"{prefix}/to_timestamp"]
        return Media("video", path, start_s=float(start), end_s=float(end))
    except (KeyError, TypeError, ValueError) as error:
        raise RowError("schema", f"the episode does not say where its video is ({error})") from None


def _annotations(data: _DataSet, episode: dict[str, Any]) -> tuple[list[_Span], bool | None]:
    """Subtasks in their order, and whether the episode succeeded; None if nothing says so."""
    said = next((episode[n] for n in ("success", "is_success") if n in episode), None)
    success = bool(said) if said is not None else None
    names = ["subtask_index"] if data.subtasks else []
    frames = data.frames(episode, names + ([] if success is not None else ["next.success"]))
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
    return [span for span in spans if span.name], success


def _flag(value: Any) -> bool:
    return bool(value[0]) if isinstance(value, list) else bool(value)


_Made = tuple[str, str, Reference, Media, str, str]


def _made(
    data: _DataSet,
    salt: str,
    tasks: list[str],
    spans: list[_Span],
    success: bool | None,
    media: Media,
) -> Iterator[_Made]:
    """Every question that an episode allows: (kind, question, reference, window, family, dimension)."""
    task = tasks[0] if tasks else ""
    other_tasks = sorted(set(data.tasks.values()) - set(tasks))
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
