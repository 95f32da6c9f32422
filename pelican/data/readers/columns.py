"""Rows of a table whose columns nobody fixed: which column is the question, which the answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from pelican.data.quarantine import RowError
from pelican.data.readers.base import (
    Found,
    Media,
    Options,
    Reference,
    Unread,
    list_of,
    number_of,
    record_key,
    text_of,
)
from pelican.data.readers.chat import (
    chat_records,
    chat_turns,
    described,
    medium,
    without_tags,
)
from pelican.records import Turn

# Our name -> what the field calls it, the likelier first.
NAMES: dict[str, tuple[str, ...]] = {
    "question": ("question", "query", "prompt", "problem", "instruction", "text"),
    "answer": ("answer", "ground_truth", "solution", "label", "target", "response", "output"),
    "options": ("options", "choices", "candidates", "multi_choice_options"),
    "image": ("image", "images", "image_path", "rgb", "image_1", "decoded_image"),
    "video": ("video", "videos", "video_path", "video_name"),
    "mask": ("mask", "mask_path"),
    "conversation": ("conversations", "messages"),
    "id": ("id", "question_id", "uid", "idx", "index", "q_uid", "sample_id"),
}


def column(row: Mapping[str, Any], name: str, options: Options) -> str | None:
    """The column that holds `name`: the one that was named, else the first known that is there."""
    if name in options.columns:
        return options.columns[name]
    return next((known for known in NAMES[name] if row.get(known) is not None), None)


def looks_like_questions(names: set[str], options: Options) -> bool:
    """Whether a table with these columns can be read."""

    def has(name: str) -> bool:
        return name in options.columns or bool(names & set(NAMES[name]))

    return (has("image") or has("video")) and (
        has("conversation") or (has("question") and (has("answer") or has("mask")))
    )


def table_records(row: Mapping[str, Any], place: str, options: Options) -> Iterator[Found]:
    """The records of one row of a table."""
    key = record_key(row)
    id_column = column(row, "id", options)
    name = text_of(row, id_column) if id_column else ""
    try:
        media = _media(row, options)
        base = replace(described(row, place, key, name, ()), id=name)
        chat = column(row, "conversation", options)
        answer = _reference(row, options)
        if chat is not None:
            said, inside = chat_turns(list_of(row[chat]))
            media += tuple(inside)
            whole = replace(base, media=media)
            yield from chat_records(
                without_tags(said, media),
                whole,
                options,
                answer=answer if said[-1:] and said[-1].role == "user" else None,
            )
            return
        asked = column(row, "question", options)
        if asked is None or not isinstance(row.get(asked), str) or not row[asked].strip():
            raise RowError("schema", f"the question ({asked or 'question'}) is missing or no text")
        turns = without_tags((Turn(role="user", text=row[asked]),), media)
        yield replace(base, media=media, turns=turns, reference=answer)
    except RowError as error:
        yield Unread(place, key, name, error)


def _media(row: Mapping[str, Any], options: Options) -> tuple[Media, ...]:
    found: list[Media] = []
    for kind in ("image", "video"):
        name = column(row, kind, options)
        if name is not None:
            found += [medium(value, kind) for value in list_of(row.get(name)) if value is not None]
    if len(found) == 1 and found[0].kind == "video":
        found[0] = replace(
            found[0],
            start_s=number_of(row, "start", "start_s"),
            end_s=number_of(row, "end", "end_s"),
        )
    # Published tables of several images number their columns: image_1, image_2, …
    for number in range(2, 10):
        if "image" not in options.columns and row.get(f"image_{number}") is not None:
            found.append(medium(row[f"image_{number}"], "image"))
    return tuple(found)


def _reference(row: Mapping[str, Any], options: Options) -> Reference:
    answer, choices = column(row, "answer", options), column(row, "options", options)
    mask = column(row, "mask", options)
    value = row.get(answer) if answer else None
    given = row.get(choices) if choices else None
    if isinstance(given, Mapping):  # {"A": "left", "B": "right"}
        given = [given[letter] for letter in sorted(given)]
    texts = tuple(str(option) for option in list_of(given))
    if not texts:  # MMBench's kind: columns A, B, C, D
        letters = [c for c in "ABCDEFGH" if isinstance(row.get(c), str) and row[c]]
        texts = tuple(str(row[c]) for c in letters) if len(letters) > 1 else ()
    return Reference(
        value,
        options=texts,
        index=True,
        unit=text_of(row, "unit"),
        mask=medium(row[mask], "image") if mask and row.get(mask) is not None else None,
    )
