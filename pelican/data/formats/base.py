"""The interface of a format's reader, the records that it yields, and the files that it reads."""

from __future__ import annotations

import hashlib
import json
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pelican.base.parse import parse_json
from pelican.data.signatures import HEAD, pointer
from pelican.data.tables import RowError, named
from pelican.errors import UserInputError
from pelican.records import Turn

# What a reader yields: one `Record` a question, its media unread and its answer as the source has it.


@dataclass(frozen=True, slots=True)
class Media:
    """One image, video, or folder of frames; `data` or a `path` as the source writes it.

    `start_s` and `end_s` cut a window out of a video, in its own time. A video of pictures is `frames`:
    a folder at `path`, or the `pictures` themselves, both of `fps` (None: the source does not say). A
    `still` is the frame of a video that is shown at `start_s`.
    """

    kind: Literal["image", "video", "frames", "still"]
    path: str = ""
    data: bytes | None = None
    start_s: float | None = None
    end_s: float | None = None
    fps: float | None = None
    pictures: tuple[Media, ...] = ()


ANNOTATORS = "annotators"  # the kind of a reference whose list has one answer of each annotator


@dataclass(frozen=True, slots=True)
class Reference:
    """The right answer as the source has it; `pelican.data.importing.answers` reads it.

    `value`: a text, number, letter, index (of `options`), list, or None where `mask` says it all.
    `kind` is set where the format leaves no doubt; `index` says that a number counts options from 0;
    `notation` is what coordinates mean that neither it nor the question tells (`--notation`).
    """

    value: object = None
    kind: str = ""
    options: tuple[str, ...] = ()
    index: bool = False
    unit: str = ""
    mask: Media | None = None
    scale: int | None = None
    aliases: tuple[str, ...] = ()
    notation: str = ""


@dataclass(frozen=True, slots=True)
class Objects:
    """What `<ref-object>` and `<bbox>` of a text stand for, each list in the order of its marks.

    `boxes` are (x0, y0, x1, y1), or points (x, y), of the picture numbered in `images` (from 0, where
    it is shorter the first); `unit` says in what: "real" is pixels, "norm1" and "norm1000" shares and
    thousandths of the picture, "none" what the question asks for.
    """

    names: tuple[str, ...] = ()
    boxes: tuple[tuple[float, ...], ...] = ()
    images: tuple[int, ...] = ()
    unit: str = "real"


@dataclass(frozen=True, slots=True)
class Record:
    """One question of a source. Empty strings are what the source does not say.

    `place` is where it stands, for a person; `key` tells it from other records by its content.
    `text_alone`: the row has no field for a medium, so its question is asked in text alone.
    """

    place: str
    key: str
    turns: tuple[Turn, ...]
    media: tuple[Media, ...]
    reference: Reference
    objects: Objects = Objects()
    id: str = ""
    question_type: str = ""
    source: str = ""
    scene: str = ""
    split: str = ""
    license: str = ""
    benchmark: str = ""
    family: str = ""
    dimension: str = ""
    text_alone: bool = False


@dataclass(frozen=True, slots=True)
class Unread:
    """A row that can't become a record, and why."""

    place: str
    key: str
    id: str
    error: RowError


Found = Record | Unread


@dataclass(frozen=True)
class Options:
    """Options of an import that concern reading. `columns`: our name -> the source's name."""

    columns: Mapping[str, str] = field(default_factory=dict)
    turns: Literal["last", "each"] = "last"
    split: str = ""
    config: str = ""


class Reader(ABC):
    """One format. A fault of one row is an `Unread`; of the whole source a UserInputError."""

    name: str
    about: str

    @abstractmethod
    def sniff(self, source: Source, options: Options) -> float:
        """How sure this format is, 0 to 1, from names and the first rows alone."""

    @abstractmethod
    def read(self, source: Source, options: Options) -> Iterator[Found]:
        """Every record, in an order that is the same each time; holds no more than a row."""


def record_key(raw: object) -> str:
    """A digest of a row as the source has it; bytes count by their digest."""
    return hashlib.blake2b(_SORTED.encode(raw).encode(), digest_size=12).hexdigest()


def _plain(value: object) -> object:
    if isinstance(value, bytes):
        return hashlib.blake2b(value, digest_size=12).hexdigest()
    return str(value)


_SORTED = json.JSONEncoder(sort_keys=True, default=_plain)


def text_of(row: Mapping[str, Any], *names: str) -> str:
    """The first of `names` that holds a text or a number, as text; "" if none does."""
    for name in names:
        value = row.get(name)
        if isinstance(value, str) and value.strip():
            return value.strip()
        if isinstance(value, int | float) and not isinstance(value, bool):
            return str(value)
    return ""


def number_of(row: Mapping[str, Any], *names: str) -> float | None:
    """The first of `names` that holds a number."""
    for name in names:
        value = row.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return _float(value)
    return None


def _float(value: float) -> float:
    """An integer of JSON may have 400 digits: as good as infinite, which its reader refuses."""
    try:
        return float(value)
    except OverflowError:
        return math.inf


_CLOCK = re.compile(
    r"(?:(\d{1,3}):)?(\d{1,3}):(\d{1,2}(?:[.,]\d{1,9})?)|(\d{1,9}(?:\.\d{1,9})?)\s*s?"
)


def seconds_of(value: object) -> float | None:
    """A time in seconds: a number, or "12.5", "12.5 s", "00:01", "1:02:03", "00:01:02,500".

    None where nothing is said. Raises RowError for what is no time.
    """
    if value is None or value == "":
        return None
    if isinstance(value, int | float) and not isinstance(value, bool):
        return _float(value)
    match = _CLOCK.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise RowError(
            "schema",
            f"a time of a video is {named(value)}, not a number of seconds or a clock's 1:02:03",
        )
    hours, minutes, seconds, plain = match.groups()
    if plain is not None:
        return float(plain)
    if float(seconds.replace(",", ".")) >= 60 or (hours and int(minutes) >= 60):
        raise RowError("schema", f"a time of a video is {named(value)}, which no clock shows")
    return int(hours or 0) * 3600 + int(minutes) * 60 + float(seconds.replace(",", "."))


def time_of(row: Mapping[str, Any], *names: str) -> float | None:
    """The first of `names` that holds a time, in seconds. Raises RowError for what is no time."""
    return seconds_of(next((row[n] for n in names if row.get(n) not in (None, "")), None))


# Names of fields, and ends of texts, that say that a row has a medium.
_NAMES_MEDIUM = re.compile(
    r"image|img|video|picture|photo|frame|clip|rgb|depth|media|pixel|camera|visual|audio|file_?name",
    re.IGNORECASE,
)
_MEDIUM = (
    *(".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".heic", ".npy"),
    *(".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".mpg", ".mpeg", ".flv", ".wav", ".mp3"),
)


def is_text_alone(row: Mapping[str, Any]) -> bool:
    """Whether no field of a row could be a medium: none is called so, no value is bytes or a file's name.

    A field that is there and empty does not count as none: its picture may be lost.
    """
    return not any(
        _NAMES_MEDIUM.search(str(name))
        or isinstance(value, bytes)
        or (isinstance(value, str) and value[-5:].lower().endswith(_MEDIUM))
        for name, value in row.items()
    )


def list_of(value: object) -> list[Any]:
    """A list as it is, one thing as a list of it, None as nothing."""
    if value is None or value == "":
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def options_of(value: object) -> tuple[str, ...]:
    """The options of a question: a list, `{"A": "left", "B": …}`, or `{"label": […], "text": […]}`.

    Nulls at the end are none: Parquet gives every row the letters of the longest. Raises RowError for
    one between others.
    """
    if isinstance(value, Mapping):
        texts = value.get("text")
        value = (
            texts if isinstance(texts, list | tuple) else [value[n] for n in sorted(value, key=str)]
        )
    given = list_of(value)
    while given and given[-1] is None:
        given.pop()
    if None in given:
        raise RowError(
            "answer", f"choice {given.index(None) + 1} of {len(given)} is empty; write it"
        )
    return tuple(map(str, given))


# The files of a source: listed in a fixed order, read row by row, so that size does not matter.

MAX_ROW = 64 << 20  # characters of one JSON value; with pictures in it a row may be long
MAX_OBJECT = 128 << 20  # bytes of a file that is one JSON object, and so is held whole
_BLOCK = 1 << 16
NOT_UTF8 = re.compile("[\udc80-\udcff]")  # bytes that `surrogateescape` let through
_BETWEEN = re.compile(r"[ \t\r\n,]*")  # two values of an array
_ROWS = (
    *(".json", ".jsonl", ".csv", ".tsv", ".parquet", ".yaml", ".yml", ".arrow"),
    *(".tar", ".tar.gz", ".tgz"),
)
# Folders of media and of version control hold no rows.
_SKIPPED = {".git", ".cache", "__pycache__"}


class Source:
    """A file or a folder. Paths of files are relative to `root`, with forward slashes."""

    def __init__(self, where: str) -> None:
        self.where = where
        path = Path(where)
        self.path = path
        self.root = path.parent if path.is_file() else path
        self._names: dict[Path, str] = {}
        self.heads: dict[Path, list[dict[str, Any]]] = {}  # the first rows of files, once read

    @cached_property
    def files(self) -> list[Path]:
        """Every file that may hold rows (JSON, JSON lines, CSV, Parquet, YAML, tar), sorted."""
        if self.path.is_file():
            return [self.path]
        found = [
            p
            for p in self.path.rglob("*")
            if p.name.lower().endswith(_ROWS) and not _SKIPPED & set(p.relative_to(self.path).parts)
        ]
        return sorted(p for p in found if p.is_file())

    def names(self) -> list[str]:
        return [self.name(path) for path in self.files]

    def name(self, path: Path) -> str:
        if path not in self._names:  # asked for every row
            self._names[path] = path.relative_to(self.root).as_posix()
        return self._names[path]

    def of(self, *endings: str) -> list[Path]:
        """The files whose names end so."""
        return [path for path in self.files if path.name.lower().endswith(endings)]

    @cached_property
    def first_rows(self) -> list[tuple[Path, dict[str, Any]]]:
        """The first rows of the first JSON files, for sniffing: one to three of each."""
        found: list[tuple[Path, dict[str, Any]]] = []
        for path in self.of(".json", ".jsonl")[:8]:
            taken = 0
            for row in json_rows(path):
                if isinstance(row.value, dict):
                    found.append((path, row.value))
                    taken += 1
                if row.number > 20 or taken == 3:
                    break
        return found

    def fingerprint(self) -> str:
        """Of names, sizes and times of the files: it changes when the source is edited."""
        stats = [(self.name(p), p.stat().st_size, p.stat().st_mtime_ns) for p in self.files]
        return hashlib.blake2b(json.dumps(stats).encode(), digest_size=12).hexdigest()


class JsonRow:
    """One row of a JSON file: its number from 1, and its value or what is wrong with it."""

    __slots__ = ("error", "number", "raw", "value")

    def __init__(self, number: int, value: Any, raw: str = "", error: RowError | None = None):
        self.number, self.value, self.raw, self.error = number, value, raw, error

    @property
    def key(self) -> str:
        """What tells the row from others, as an import knows it again: its value, else its text."""
        return record_key(self.value if self.error is None else self.raw)


def json_rows(path: Path) -> Iterator[JsonRow]:
    """Rows of JSON lines, of a JSON array, or the array inside an object, without holding them all.

    A row that is no JSON gives an error row. In JSON lines the next line is read; in an array it is the
    last, because nothing behind it can be trusted. `{"data": [...]}` gives the rows of its list; any
    other object is one row. Python's decoder takes NaN, which real files hold: the conversion refuses
    such a row alone. Why not ijson: docs/decisions/2026-11-30-json-arrays-by-hand.md.

    Raises:
        UserInputError: The file can't be opened, or is one object above MAX_OBJECT.
    """
    try:
        with path.open("r", encoding="utf-8-sig", errors="surrogateescape") as file:
            head = file.read(_BLOCK).lstrip()
            file.seek(0)
            if what := pointer(head[:HEAD].encode(errors="surrogateescape")):
                yield _bad(1, head[:80], f"the file is {what}")
            elif path.name.lower().endswith(".jsonl") or (
                head[:1] == "{" and _looks_like_lines(head)
            ):
                yield from _lines(file)
            elif head[:1] == "[":
                yield from _array(file)
            elif head[:1] == "{":
                yield from _object(file, path)
            elif head[:2] in ("\udcff\udcfe", "\udcfe\udcff"):
                yield _bad(1, head[:80], "the file is UTF-16; write it as UTF-8")
            else:
                why = "does not start with [ or {" if head else "is empty"
                yield _bad(1, head[:80], f"the file {why}")
    except OSError as error:
        raise UserInputError(f"{path} can't be read ({error.strerror})") from None


def _looks_like_lines(head: str) -> bool:
    """Several objects, one a line: the first line is a value of its own and another follows."""
    first, _, rest = head.partition("\n")
    try:
        parse_json(first)
    except ValueError:
        return False
    return rest.lstrip()[:1] == "{"


def _lines(file: Any) -> Iterator[JsonRow]:
    number = 1
    while line := file.readline(MAX_ROW + 1):
        if not line.strip():
            continue
        if len(line) > MAX_ROW:
            yield _bad(number, line[:80], f"a row is longer than {MAX_ROW >> 20} MB")
            return
        yield _parsed(number, line)
        number += 1


def _parsed(number: int, text: str) -> JsonRow:
    try:
        return _checked(number, parse_json(text), text)
    except RecursionError:
        return _bad(number, text, "a row is nested too deep")
    except ValueError as error:
        return _bad(number, text, f"not JSON ({error})")


def _checked(number: int, value: Any, text: str) -> JsonRow:
    if not text.isascii() and NOT_UTF8.search(text):
        return JsonRow(number, None, text, RowError("text", "text is not UTF-8"))
    if not isinstance(value, dict):
        return _bad(number, text, f"a row is a {type(value).__name__}, not an object")
    return JsonRow(number, value, text)


def _bad(number: int, text: str, reason: str) -> JsonRow:
    return JsonRow(number, None, text[:4096], RowError("json", reason))


def _array(file: Any) -> Iterator[JsonRow]:
    """The objects of one array, decoded one at a time out of a sliding text."""
    decoder = json.JSONDecoder()
    text, number, ended = file.read(_BLOCK).lstrip(), 1, False
    at = 1  # behind the bracket; the text is cut once a block, not once a row
    while True:
        at = _BETWEEN.match(text, at).end()  # type: ignore[union-attr]  # matches the empty text
        if text[at : at + 1] == "]":
            return
        try:
            value, stop = decoder.raw_decode(text, at)
        except RecursionError:
            head = text[at : at + 80]
            yield _bad(number, head, "a row is nested too deep; nothing after it was read")
            return
        except ValueError as error:
            if at:
                text, at = text[at:], 0
                continue
            # Doubling keeps a long row from being parsed again for every block.
            more = file.read(max(_BLOCK, len(text)))
            if more and len(text) <= MAX_ROW:
                text += more
                continue
            why = "the file is cut off" if not text.strip() or not more else f"not JSON ({error})"
            yield _bad(number, text[:80], f"{why}; nothing from here on was read")
            return
        if stop == len(text) and not ended:  # a number may go on in the next block
            more = file.read(_BLOCK)
            ended = not more
            if more:
                text, at = text[at:] + more, 0
                continue
        yield _checked(number, value, text[at:stop])
        number += 1
        at = stop


def _object(file: Any, path: Path) -> Iterator[JsonRow]:
    """The one list of objects inside an object, or the object itself."""
    if path.stat().st_size > MAX_OBJECT:
        raise UserInputError(
            f"{path} is one JSON object of {path.stat().st_size >> 20} MB; write its rows as JSON"
            " lines, one a line"
        )
    text = file.read()
    row = _parsed(1, text)
    if not isinstance(row.value, dict):
        yield row
        return
    lists = [v for v in row.value.values() if isinstance(v, list) and v and isinstance(v[0], dict)]
    if len(lists) != 1 or "conversations" in row.value or "messages" in row.value:
        yield row
        return
    for number, value in enumerate(lists[0], 1):
        yield _checked(number, value, json.dumps(value))
