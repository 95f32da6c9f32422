"""Chats as JSON: LLaVA, RoboPoint, Cosmos-Reason."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pelican.base.parse import parse_json
from pelican.data.formats.base import (
    Found,
    JsonRow,
    Media,
    Objects,
    Options,
    Reader,
    Record,
    Reference,
    Source,
    Unread,
    is_text_alone,
    json_rows,
    list_of,
    options_of,
    text_of,
)
from pelican.data.formats.medium import held_in, media_of, medium, placed
from pelican.data.tables import RowError, named
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
_TAG = re.compile(r"<(image|video)(?:[ _-]?(\d{1,3}))?>", re.IGNORECASE)
_LEADING = re.compile(rf"(?:\s*{_TAG.pattern})*", re.IGNORECASE)


def is_chat(row: Mapping[str, Any], field: str, role: str, content: str) -> bool:
    """Whether `row[field]` is a list of turns with these two keys."""
    turns = row.get(field)
    if not isinstance(turns, list) or not turns or not isinstance(turns[0], dict):
        return False
    return role in turns[0] and content in turns[0]


# The turns of a conversation.


def chat_turns(turns: Sequence[Any]) -> tuple[list[Turn], list[Media | None]]:
    """Turns in any spelling of role and content, and the media inside them (see `placed`).

    Raises RowError.
    """
    found: list[Turn] = []
    media: list[Media | None] = []
    for turn in turns:
        if not isinstance(turn, Mapping):
            raise RowError("schema", f"a turn is a {type(turn).__name__}, not an object")
        name = turn.get("role", turn.get("from"))
        role = ROLES.get(str(name).lower())
        if role is None:
            raise RowError(
                "schema", f"a turn's role is {named(name)}, not user, assistant or system"
            )
        content = turn.get("content", turn.get("value"))
        if isinstance(content, list):
            content, inside = _parts(content)
            media += inside
        if not isinstance(content, str):
            raise RowError("schema", f"a turn's text is {type(content).__name__}, not text")
        found.append(Turn(role=role, text=content))
    return found, media


# The types of parts: what OpenAI, Qwen and Hugging Face call them, and what they are.
_PARTS = {
    **dict.fromkeys(("text", "input_text", "output_text"), "text"),
    **dict.fromkeys(("image", "image_url", "input_image", "inline_data"), "image"),
    **dict.fromkeys(("video", "video_url", "input_video"), "video"),
    **dict.fromkeys(("audio", "audio_url", "input_audio"), "audio"),
}


def _parts(content: Sequence[Any]) -> tuple[str, list[Media | None]]:
    """Contents that are lists of texts, images and videos, a tag in the text for each medium.

    An image without a source, `{"type": "image"}`, is None: the next one beside the conversation.
    """
    texts: list[str] = []
    media: list[Media | None] = []
    for part in content:
        if isinstance(part, str):
            texts.append(part)
            continue
        about: Mapping[str, Any] = part if isinstance(part, Mapping) else {}
        said = about.get("type") or next((name for name in _PARTS if about.get(name)), None)
        kind = _PARTS.get(str(said).lower())
        if kind == "text":
            texts.append(str(about.get("text") or about.get("value") or ""))
        elif kind in ("image", "video"):
            texts.append(f"<{kind}>")
            media.append(medium(about, kind) if held_in(about, kind) else None)
        elif kind == "audio":
            raise RowError("media_marks", "a part of a turn is sound, which no policy hears")
        else:
            raise RowError("schema", f"a part of a turn is of type {named(said)}")
    return "\n".join(texts), media


def without_tags(turns: Sequence[Turn], media: Sequence[Media]) -> tuple[Turn, ...]:
    """The turns without `<image>` and `<video>`; a tag inside a sentence becomes "image 2".

    The media come before the first text, so only tags that refer to one of several keep a meaning.
    `<image 2>` says itself which one it means. Raises RowError if there are more tags than media.
    """
    tags = [
        tag.groups() for turn in turns if turn.role == "user" for tag in _TAG.finditer(turn.text)
    ]
    numbered = {(kind.lower(), int(number)) for kind, number in tags if number}
    from_0 = any(number == 0 for _, number in numbered)
    needed = sum(1 for _, number in tags if not number) + len(numbered)
    needed = max([needed, *(number + from_0 for _, number in numbered)])
    if needed > len(media):
        raise RowError("media_tags", f"{needed} <image> or <video> tags but {len(media)} media")
    numbers = {"image": 0, "video": 0}

    def name_tag(match: re.Match[str]) -> str:
        kind = match[1].lower()
        numbers[kind] += 1
        number = int(match[2]) + from_0 if match[2] else numbers[kind]
        return "" if len(tags) == 1 else f"{kind} {number}"

    found = []
    for turn in turns:
        if turn.role == "assistant" or "<" not in turn.text:
            found.append(replace_text(turn, turn.text.strip()))
            continue
        start = _LEADING.match(turn.text).end()  # type: ignore[union-attr]  # matches the empty text
        for kind, _ in _TAG.findall(turn.text[:start]):
            numbers[kind.lower()] += 1
        end = _tail(turn.text, start)
        text = _TAG.sub(name_tag, turn.text[start:end]).strip()
        for kind, _ in _TAG.findall(turn.text[end:]):
            numbers[kind.lower()] += 1
        found.append(replace_text(turn, text))
    return tuple(found)


def _tail(text: str, start: int) -> int:
    """Where the tags behind the last sentence begin; those that end a sentence belong to it."""
    rest = text.rstrip()
    for tag in reversed(list(_TAG.finditer(text, start))):
        if tag.end() < len(rest):
            break
        rest = text[: tag.start()].rstrip()
    gap = text[len(rest) :]
    whole = len(rest) <= start or rest[-1] in ".?!:;。？！：；" or "\n" in gap[: gap.find("<") + 1]
    return len(rest) if whole else len(text)


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


Conversation = tuple[Sequence[Any], Sequence[Media]]  # its turns, and the media beside them


def read_conversation(
    row: JsonRow, place: str, options: Options, find: Callable[[dict[str, Any]], Conversation]
) -> Iterator[Found]:
    """The records of one row.

    Args:
        row: may hold an error.
        place: of the row, for a person.
        options: of the import.
        find: takes the conversation out of the row's value, and may raise RowError.
    """
    name = ""
    try:
        if row.error is not None:
            raise row.error
        value: dict[str, Any] = row.value
        name = text_of(value, "id", "question_id", "sample_id", "uid")
        said, beside = find(value)
        turns, inside = chat_turns(said)
        media = placed(inside, beside)
        yield from chat_records(
            without_tags(turns, media), described(value, place, row.key, name, media), options
        )
    except RowError as error:
        yield Unread(place, row.key, name, error)


def read_chat(row: JsonRow, place: str, field: str, options: Options) -> Iterator[Found]:
    """The records of one row whose conversation stands in `field`."""

    def find(value: dict[str, Any]) -> Conversation:
        conversation = value.get(field)
        if not isinstance(conversation, list):
            raise RowError("schema", f"{field} is missing or no list")
        return conversation, media_of(value)

    return read_conversation(row, place, options, find)


class ChatReader(Reader):
    """A format whose rows are conversations in one field."""

    field: str

    def read(self, source: Source, options: Options) -> Iterator[Found]:
        for path in source.of(".json", ".jsonl"):
            for row in json_rows(path):
                place = f"{source.name(path)}, row {row.number}"
                yield from read_chat(row, place, self.field, options)


def objects_of(row: Mapping[str, Any]) -> Objects:
    """What ms-swift's `objects` says about marks in the text: names, boxes, their unit."""
    given = row.get("objects")
    try:
        if isinstance(given, str) and given[:1] in "[{":  # as its version 2 wrote them
            given = parse_json(given)
        if isinstance(given, list):
            given = {
                "ref": [one.get("caption") or "" for one in given],
                "bbox": [one["bbox"] for one in given],
                "image_id": [one.get("image") or 0 for one in given],
                "bbox_type": given[0].get("bbox_type"),
            }
        if not isinstance(given, Mapping):
            return Objects()
        return Objects(
            names=tuple(str(name) for name in list_of(given.get("ref"))),
            boxes=tuple(tuple(float(v) for v in box) for box in list_of(given.get("bbox"))),
            images=tuple(int(number) for number in list_of(given.get("image_id"))),
            unit=str(given.get("bbox_type") or "real"),
        )
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        return Objects()  # of another kind, such as a detector's


def described(
    value: Mapping[str, Any], place: str, key: str, name: str, media: tuple[Media, ...]
) -> Record:
    """The fields that rows of any format may have, such as id, scene and split.

    Raises RowError for a row with sound, since what is asked may be about it, or with an empty choice.
    """
    for field in ("audio", "audios"):
        if isinstance(value.get(field), str | list | Mapping) and value[field]:
            raise RowError("media_marks", f"the row has {field}, which no policy hears")
    return Record(
        place=place,
        key=key,
        turns=(),
        media=media,
        reference=Reference(
            options=options_of(value.get("options") or value.get("choices")),
            unit=text_of(value, "unit"),
        ),
        objects=objects_of(value),
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
