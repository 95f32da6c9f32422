"""LLaMA-Factory: its folder with dataset_info.json, Alpaca's columns, and the parts of its v1 messages.

The fields are those of hiyouga/LLaMA-Factory at ff6d4d1: data/README.md, and for v1
src/llamafactory/v1/plugins/data_plugins/converter.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pelican.base.files import resolve_below
from pelican.base.parse import parse_json
from pelican.data.formats.base import (
    Found,
    Options,
    Reader,
    Source,
    Unread,
    list_of,
    record_key,
    text_of,
)
from pelican.data.formats.chat import Conversation, read_conversation
from pelican.data.formats.medium import medium
from pelican.data.formats.rows import TABLES, first_values, read_rows
from pelican.data.tables import RowError
from pelican.errors import UserInputError

INFO = "dataset_info.json"
# Their name of a column -> the column where an entry does not say.
ALPACA = {"prompt": "instruction", "query": "input", "response": "output"}
SHAREGPT = {"messages": "conversations"}
TAGS = {
    "role_tag": "from",
    "content_tag": "value",
    "user_tag": "human",
    "assistant_tag": "gpt",
    "system_tag": "system",
}
_OF_ENTRY = {"file_name", "hf_hub_url", "ms_hub_url", "om_hub_url", "script_url", "cloud_file_name"}
_MEDIA = {"image_url": "image", "video_url": "video"}


class LlamaFactory(Reader):
    name = "llamafactory"
    about = "LLaMA-Factory: dataset_info.json, Alpaca's columns, or messages of {type, value} parts"

    def sniff(self, source: Source, options: Options) -> float:
        if _entries(source):
            return 0.97
        best = 0.0
        for row in first_values(source, TABLES):
            if _has_parts(row):
                return 0.95
            if {"instruction", "output"} <= row.keys():
                best = 0.85
        return best

    def read(self, source: Source, options: Options) -> Iterator[Found]:
        entries = _entries(source)
        if not entries:
            for path in source.of(*TABLES):
                yield from _read_file(path, source.name(path), {}, options)
            return
        if options.config and options.config not in entries:
            raise UserInputError(
                f"{source.where}/{INFO} has no entry {options.config!r}; it has {', '.join(entries)}"
            )
        for name in [options.config] if options.config else entries:
            entry = entries[name]
            try:
                files = _files_of(source, name, entry)
            except RowError as error:
                yield Unread(f"{INFO}, {name}", record_key([INFO, name]), name, error)
                continue
            for path in files:
                yield from _read_file(path, f"{name}, {path.name}", entry, options)


def _entries(source: Source) -> dict[str, dict[str, Any]]:
    """The data sets that dataset_info.json names; Hugging Face's file of that name holds none."""
    if not source.path.is_dir():
        return {}
    try:
        info = parse_json((source.path / INFO).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(info, dict):
        return {}
    return {
        name: entry
        for name, entry in info.items()
        if isinstance(entry, dict) and _OF_ENTRY & entry.keys()
    }


def _files_of(source: Source, name: str, entry: Mapping[str, Any]) -> list[Path]:
    """The files of one entry; none if they are to be downloaded. Raises RowError."""
    if entry.get("ranking"):
        raise RowError("schema", f"{name} has pairs of answers, of which none is a reference")
    for field in ("columns", "tags"):
        names = entry.get(field) or {}
        if not isinstance(names, dict) or not all(isinstance(n, str) for n in names.values()):
            raise RowError("schema", f"{field} of {name} is no object of names; mend it in {INFO}")
    named = text_of(entry, "file_name")
    if not named:
        raise RowError(
            "file",
            f"{name} lies on a hub; download it beside {INFO} and name it there by file_name",
        )
    try:
        path = resolve_below(source.path, named)
    except UserInputError as error:
        raise RowError("media_path", f"file_name of {name}: {error}") from None
    if path.is_dir():
        return sorted(p for p in path.iterdir() if p.name.lower().endswith(TABLES))
    if not path.is_file():
        raise RowError("file", f"file_name of {name} is {named!r}, which is not there")
    return [path]


def _read_file(
    path: Path, name: str, entry: Mapping[str, Any], options: Options
) -> Iterator[Found]:
    columns = {**ALPACA, **SHAREGPT, **(entry.get("columns") or {})}

    def find(value: dict[str, Any]) -> Conversation:
        if value.get(columns.get("kto_tag", "kto_tag")) is False:
            raise RowError("answer", "kto_tag says that the answer is an undesired one")
        said = _messages(value, columns, entry)
        beside = [
            medium(one, kind)
            for kind in ("image", "video")
            for one in list_of(value.get(columns.get(f"{kind}s", f"{kind}s")))
        ]
        if value.get(columns.get("audios", "audios")):
            raise RowError("media_marks", "the row has audios, which no policy hears")
        return said, beside

    for row in read_rows(path):
        yield from read_conversation(row, f"{name}, row {row.number}", options, find)


def _messages(
    row: Mapping[str, Any], columns: Mapping[str, str], entry: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """The conversation of a row, in OpenAI's form. Raises RowError."""
    system = text_of(row, columns.get("system", "system"))
    found: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
    listed = row.get(columns["messages"]) or row.get("messages")
    if isinstance(listed, list):
        said = [_turn(turn, entry.get("tags") or {}) for turn in listed]
        return said if said[:1] and said[0].get("role") == "system" else found + said
    asked = "\n".join(filter(None, (text_of(row, columns[n]) for n in ("prompt", "query"))))
    if not asked:
        raise RowError("schema", f"{columns['prompt']} is missing or no text")
    for pair in list_of(row.get(columns.get("history", "history"))):
        if not isinstance(pair, list) or len(pair) != 2:
            raise RowError("schema", "the history is no list of pairs of question and answer")
        found += [
            {"role": "user", "content": pair[0]},
            {"role": "assistant", "content": pair[1]},
        ]
    answer = text_of(row, columns["response"])
    if not answer:
        raise RowError("answer_missing", f"{columns['response']} is missing or no text")
    return [
        *found,
        {"role": "user", "content": asked},
        {"role": "assistant", "content": answer},
    ]


def _turn(turn: Any, tags: Mapping[str, str]) -> dict[str, Any]:
    """A turn in OpenAI's form, by the names that an entry gives, or the usual ones."""
    if not isinstance(turn, Mapping):
        raise RowError("schema", f"a turn is a {type(turn).__name__}, not an object")
    names = {**TAGS, **tags}
    role = turn.get(names["role_tag"], turn.get("role"))
    roles = {names[f"{ours}_tag"]: ours for ours in ("user", "assistant", "system")}
    content = turn.get(names["content_tag"], turn.get("content"))
    if isinstance(content, list):
        content = [_part(part) for part in content]
    return {"role": roles.get(str(role), role), "content": content}


def _has_parts(row: Mapping[str, Any]) -> bool:
    """Whether the row has v1's messages, whose parts keep text and paths alike in `value`."""
    messages = row.get("messages")
    turns = messages if isinstance(messages, list) else []
    parts = [turn.get("content") for turn in turns if isinstance(turn, Mapping)]
    return any(
        isinstance(part, Mapping) and {"type", "value"} <= part.keys()
        for content in parts
        if isinstance(content, list)
        for part in content
    )


def _part(part: Any) -> Any:
    """A part of v1 in OpenAI's and Qwen's form; one that is already is stays."""
    if not isinstance(part, Mapping) or "value" not in part:
        return part
    kind, value = str(part.get("type")), part["value"]
    if kind == "text":
        return {"type": "text", "text": value}
    ours = _MEDIA.get(kind, kind)
    return {"type": ours, ours: value}


READERS = (LlamaFactory(),)
