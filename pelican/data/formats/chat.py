"""Chats as JSON: LLaVA, RoboPoint, Cosmos-Reason."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
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
    is_text_alone,
    json_rows,
    list_of,
    record_key,
    text_of,
)
from pelican.data.tables import RowError
from pelican.records import Turn

# Conversations as the field writes them: `messages` or `conversations`, media beside or inside.

ROLES = {
    "user": "user",
    "human": "user",
    "question": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "system": "system",
}
_TAG = re.compile(r"<(image|video)(?:_?\d+)?>", re.IGNORECASE)
VIDEO_ENDINGS = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".mpg", ".mpeg", ".ts", ".wmv")


def is_chat(row: Mapping[str, Any], field: str, role: str, content: str) -> bool:
    """Whether `row[field]` is a list of turns with these two keys."""
    turns = row.get(field)
    if not isinstance(turns, list) or not turns or not isinstance(turns[0], dict):
        return False
    return role in turns[0] and content in turns[0]


def media_of(row: Mapping[str, Any]) -> tuple[Media, ...]:
    """The media that a row names beside its text. Raises RowError."""
    found: list[Media] = []
    for name in ("image", "images", "image_path", "image_paths"):
        found += [medium(value, "image") for value in list_of(row.get(name))]
    for name in ("video", "videos", "video_path", "video_paths"):
        found += [medium(value, "video") for value in list_of(row.get(name))]
    return tuple(found)


def medium(value: Any, kind: str) -> Media:
    """A path, or {"path", "bytes"}, or {"video", "start", "end"}. Raises RowError."""
    start = end = None
    data = None
    if isinstance(value, Mapping):
        start, end = (
            value.get("video_start", value.get("start")),
            value.get("video_end", value.get("end")),
        )
        data = value.get("bytes")
        value = value.get("path") or value.get(kind) or value.get("url") or ""
    if not isinstance(value, str) or not (value or data):
        raise RowError("schema", f"{kind} is {value!r}, not a path")
    if value.lower().endswith(VIDEO_ENDINGS):
        kind = "video"
    return Media(
        kind="video" if kind == "video" else "image",
        path=value.removeprefix("file://"),
        data=data if isinstance(data, bytes) and data else None,
        start_s=_time(start),
        end_s=_time(end),
    )


def _time(value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    raise RowError("schema", f"a time of a video is {value!r}, not a number of seconds")


def chat_turns(turns: Sequence[Any]) -> tuple[list[Turn], list[Media]]:
    """Turns in any spelling of role and content, and the media inside them. Raises RowError."""
    found: list[Turn] = []
    media: list[Media] = []
    for turn in turns:
        if not isinstance(turn, Mapping):
            raise RowError("schema", f"a turn is a {type(turn).__name__}, not an object")
        name = turn.get("role", turn.get("from"))
        role = ROLES.get(str(name).lower())
        if role is None:
            raise RowError("schema", f"a turn's role is {name!r}, not user, assistant or system")
        content = turn.get("content", turn.get("value"))
        if isinstance(content, list):
            content, inside = _parts(content)
            media += inside
        if not isinstance(content, str):
            raise RowError("schema", f"a turn's text is {type(content).__name__}, not text")
        found.append(Turn(role=role, text=content))
    return found, media


def _parts(content: Sequence[Any]) -> tuple[str, list[Media]]:
    """The contents of OpenAI's and Qwen's kind: a list of texts, images and videos."""
    texts, media = [], []
    for part in content:
        if isinstance(part, str):
            texts.append(part)
            continue
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind == "text":
            texts.append(str(part.get("text", "")))
        elif kind in ("image", "video"):
            value = (
                part if part.get("video_start") is not None else part.get(kind, part.get("path"))
            )
            media.append(medium(value, kind))
        elif kind == "image_url":
            url = part.get("image_url")
            media.append(medium(url.get("url") if isinstance(url, Mapping) else url, "image"))
        else:
            raise RowError("schema", f"a part of a turn is of type {kind!r}")
    return "\n".join(texts), media


def without_tags(turns: Sequence[Turn], media: Sequence[Media]) -> tuple[Turn, ...]:
    """The turns without `<image>` and `<video>`; a tag inside a sentence becomes "image 2".

    The media come before the first text, so only tags that refer to one of several keep a meaning.
    Raises RowError if there are more tags than media.
    """
    tags = sum(len(_TAG.findall(turn.text)) for turn in turns if turn.role == "user")
    if tags > len(media):
        raise RowError("media_tags", f"{tags} <image> or <video> tags but {len(media)} media")
    numbers = {"image": 0, "video": 0}
    found = []
    for turn in turns:
        if turn.role == "assistant":
            found.append(replace_text(turn, turn.text.strip()))
            continue
        leading = re.match(r"(?:\s*<(?:image|video)(?:_?\d+)?>)*", turn.text, re.IGNORECASE)
        start = leading.end() if leading else 0
        for tag in _TAG.findall(turn.text[:start]):
            numbers[tag.lower()] += 1

        def number_tag(match: re.Match[str], text: str = turn.text[start:]) -> str:
            kind = match[1].lower()
            numbers[kind] += 1
            alone = tags == 1 or not text[match.end() :].strip()
            return "" if alone else f"{kind} {numbers[kind]}"

        found.append(replace_text(turn, _TAG.sub(number_tag, turn.text[start:]).strip()))
    return tuple(found)


def replace_text(turn: Turn, text: str) -> Turn:
    return turn if text == turn.text else Turn(role=turn.role, text=text)


def chat_records(
    turns: Sequence[Turn], base: Record, options: Options, *, answer: Reference | None = None
) -> Iterator[Record]:
    """One record for the last question of a conversation, or one for each; what was said before
    stays as context. `answer` stands beside the conversation instead of in it.

    Raises RowError for a conversation that has no question with an answer.
    """
    if answer is not None and (not turns or turns[-1].role != "assistant"):
        if not turns or turns[-1].role != "user":
            raise RowError("schema", "the conversation has no question")
        yield replace(base, turns=tuple(turns), reference=answer)
        return
    ends = [
        i
        for i, turn in enumerate(turns)
        if turn.role == "assistant" and i and turns[i - 1].role == "user"
    ]
    if not ends:
        raise RowError("schema", "the conversation has no question that the assistant answers")
    for number, end in enumerate(ends if options.turns == "each" else ends[-1:]):
        value = replace(base.reference, value=turns[end].text)
        if answer is not None and end == ends[-1]:
            value = answer
        several = options.turns == "each" and len(ends) > 1
        yield replace(
            base,
            turns=tuple(turns[:end]),
            reference=value,
            id=f"{base.id}/{number}" if several and base.id else base.id,
            key=f"{base.key}/{number}" if several else base.key,
            place=f"{base.place}, turn {end}" if several else base.place,
        )


def read_chat(row: JsonRow, place: str, field: str, options: Options) -> Iterator[Found]:
    """The records of one row whose conversation stands in `field`."""
    key = record_key(row.value if row.error is None else row.raw)
    name = ""
    try:
        if row.error is not None:
            raise row.error
        value: dict[str, Any] = row.value
        name = text_of(value, "id", "question_id", "sample_id", "uid")
        conversation = value.get(field)
        if not isinstance(conversation, list):
            raise RowError("schema", f"{field} is missing or no list")
        turns, inside = chat_turns(conversation)
        media = media_of(value) + tuple(inside)
        yield from chat_records(
            without_tags(turns, media), described(value, place, key, name, media), options
        )
    except RowError as error:
        yield Unread(place, key, name, error)


class ChatReader(Reader):
    """A format whose rows are conversations in one field."""

    field: str

    def read(self, source: Source, options: Options) -> Iterator[Found]:
        for path in source.of(".json", ".jsonl"):
            for row in json_rows(path):
                place = f"{source.name(path)}, row {row.number}"
                yield from read_chat(row, place, self.field, options)


def described(
    value: Mapping[str, Any], place: str, key: str, name: str, media: tuple[Media, ...]
) -> Record:
    """The fields that rows of any format may have, such as id, scene and split."""
    return Record(
        place=place,
        key=key,
        turns=(),
        media=media,
        reference=Reference(
            options=tuple(str(o) for o in list_of(value.get("options") or value.get("choices"))),
            unit=text_of(value, "unit"),
        ),
        id=name,
        question_type=text_of(value, "question_type", "task_type", "category", "type", "task"),
        source=text_of(value, "data_source", "dataset", "source"),
        scene=text_of(value, "scene_name", "scene_id", "scene", "episode_id", "episode"),
        split=text_of(value, "split"),
        license=text_of(value, "license", "licence"),
        family=text_of(value, "family"),
        dimension=text_of(value, "dimension"),
        text_alone=not media and is_text_alone(value),
    )


# The style of Cosmos-Reason data: `conversations`, `video` a list, a `<video>` tag in the text.


class Cosmos(ChatReader):
    name = "cosmos"
    about = "conversations with from and value, video a list, <video> in the text"
    field = "conversations"

    def sniff(self, source: Source, options: Options) -> float:
        rows = [row for _, row in source.first_rows if is_chat(row, self.field, "from", "value")]
        return 0.9 if any(isinstance(row.get("video"), list) for row in rows) else 0.0


# LLaVA's and ShareGPT's conversations: `conversations` with from and value, `image` or `images`.


class Llava(ChatReader):
    name = "llava"
    about = "LLaVA and ShareGPT: conversations with from and value, image or images"
    field = "conversations"

    def sniff(self, source: Source, options: Options) -> float:
        rows = [row for _, row in source.first_rows if is_chat(row, self.field, "from", "value")]
        if not rows:
            return 0.0
        return 0.8 if any("image" in row or "images" in row for row in rows) else 0.6


# RoboPoint's style: `messages` with role and content, `images` with absolute paths, many turns.


class RoboPoint(ChatReader):
    name = "robopoint"
    about = "messages with role and content, images by path, one turn or several"
    field = "messages"

    def sniff(self, source: Source, options: Options) -> float:
        rows = [row for _, row in source.first_rows]
        return 0.9 if any(is_chat(row, "messages", "role", "content") for row in rows) else 0.0


READERS = (Cosmos(), Llava(), RoboPoint())
