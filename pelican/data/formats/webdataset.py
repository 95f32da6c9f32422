"""WebDataset: tar files whose members of one name are one row: key.jpg, key.json, key.txt."""

from __future__ import annotations

import re
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from pelican.base.parse import parse_json
from pelican.data.formats.base import Found, Options, Reader, Source, Unread, record_key
from pelican.data.formats.medium import PICTURE_ENDINGS
from pelican.data.formats.rows import split_of
from pelican.data.formats.tables import NAMES, column, table_records
from pelican.data.tables import RowError

MAX_ROW_BYTES = 64 << 20  # of all members of one row
SHARDS = (".tar", ".tar.gz", ".tgz")
IMAGES = tuple(ending[1:] for ending in PICTURE_ENDINGS)
VIDEOS = ("mp4", "mov", "mkv", "webm", "avi")
TEXTS = ("txt", "text", "caption")
NUMBERS = ("cls", "cls2", "index")
# Of members that are pictures and not what is asked about.
_MASK = re.compile(r"mask|seg", re.IGNORECASE)
_NO_PICTURE = re.compile(r"depth|normal|flow", re.IGNORECASE)
_FAULTS = (tarfile.TarError, OSError, EOFError, zlib.error)


class WebDataset(Reader):
    name = "webdataset"
    about = "tar shards: key.jpg beside key.json (question, answer, or messages), key.txt"

    def sniff(self, source: Source, options: Options) -> float:
        for path in source.of(*SHARDS)[:2]:
            try:
                first = next(_groups(path), None)
            except _FAULTS:
                continue
            if first and {"json", *TEXTS} & {_kind(field) for field in first[1]}:
                return 0.9
        return 0.0

    def read(self, source: Source, options: Options) -> Iterator[Found]:
        for path in source.of(*SHARDS):
            name, number = source.name(path), 0
            try:
                for key, members in _groups(path):
                    number += 1
                    place = f"{name}, {key}"
                    try:
                        row = _row(key, members, options)
                    except RowError as error:
                        yield Unread(place, record_key([name, key]), key, error)
                        continue
                    row.setdefault("split", split_of(name))
                    yield from table_records(row, place, options)
            except _FAULTS as error:
                why = f"not readable as a tar after {number} rows ({' '.join(str(error).split())})"
                yield Unread(name, record_key([name, number]), "", RowError("file", why))


def _groups(path: Path) -> Iterator[tuple[str, dict[str, bytes | RowError]]]:
    """(key, what follows the first dot of a member's name -> its bytes) of each row of a shard.

    The file is read once from front to end, also inside gzip; nothing is unpacked to disk. Members
    of one row stand together, as WebDataset's own reader asks.
    """
    key, members, size = "", dict[str, bytes | RowError](), 0
    with tarfile.open(path, "r|*") as shard:
        for member in shard:
            where = PurePosixPath(member.name)
            stem, _, field = where.name.partition(".")
            if not member.isfile() or not stem or not field or stem.startswith("__"):
                continue  # folders, links, hidden files, and what describes the shard
            this = (where.parent / stem).as_posix()
            if this != key and members:
                yield key, members
                members, size = {}, 0
            key = this
            members[field.lower()] = _content(shard, member, size)
            size += member.size
    if members:
        yield key, members


def _content(shard: tarfile.TarFile, member: tarfile.TarInfo, before: int) -> bytes | RowError:
    """The bytes of a member; `before`: those of its row that are held already."""
    if before + member.size > MAX_ROW_BYTES:
        return RowError("image_huge", f"the row has more than {MAX_ROW_BYTES >> 20} MB")
    file = shard.extractfile(member)
    data = file.read() if file is not None else b""
    if len(data) < member.size:
        raise tarfile.ReadError("the file is cut off")
    return data


def _kind(field: str) -> str:
    return field.rpartition(".")[2]


def _row(key: str, members: dict[str, bytes | RowError], options: Options) -> dict[str, Any]:
    """The fields of the JSON, the texts and the pictures of one row. Pickles are left unread."""
    row: dict[str, Any] = {}
    images: list[tuple[str, bytes]] = []
    for field, data in members.items():
        kind, name = _kind(field), field.rpartition(".")[0] or field
        if isinstance(data, RowError):
            raise data
        if kind == "json":
            value = _json(field, data)
            row |= value if isinstance(value, dict) else {name: value}
        elif kind in (*TEXTS, *NUMBERS):
            text = _text(field, data).strip()
            number = kind in NUMBERS and len(text) < 19 and text.isdecimal()
            row[name] = int(text) if number else text
        elif kind in VIDEOS:
            raise RowError("video_unreadable", "a video inside a tar is not read; give it by path")
        elif kind in IMAGES and _MASK.search(name):
            row["mask"] = {"bytes": data, "path": f"{key}.{field}"}
        elif kind in IMAGES and not _NO_PICTURE.search(name):
            images.append((field, data))
    if images:
        for name in NAMES["image"]:
            row.pop(name, None)
        images.sort(key=lambda one: [int(n) for n in re.findall(r"\d+", one[0])])
        row["image"] = [{"bytes": data, "path": f"{key}.{field}"} for field, data in images]
    row.setdefault("id", key)
    return _with_text(row, options)


def _json(field: str, data: bytes) -> Any:
    try:
        return parse_json(_text(field, data))
    except (ValueError, RecursionError) as error:
        raise RowError("json", f"{field} is no JSON ({str(error)[:200]})") from None


def _text(field: str, data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise RowError("text", f"{field} is not UTF-8") from None


def _with_text(row: dict[str, Any], options: Options) -> dict[str, Any]:
    """A row whose JSON lacks the question or the answer has it in key.txt."""
    text = next((row[name] for name in TEXTS if isinstance(row.get(name), str)), "")
    if not text or column(row, "conversation", options):
        return row
    wanted = [
        ours for ours in ("question", "answer") if column(row, ours, options) in (None, *TEXTS)
    ]
    return {**row, wanted[0]: text} if len(wanted) == 1 else row


READERS = (WebDataset(),)
