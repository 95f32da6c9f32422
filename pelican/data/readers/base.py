"""What a reader yields: one record per question, its media still unread, its answer as it stands."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pelican.data.quarantine import RowError
from pelican.data.readers.source import Source
from pelican.records import Turn


@dataclass(frozen=True, slots=True)
class Media:
    """One image, video, or folder of frames; `data` or a `path` as the source writes it.

    `start_s` and `end_s` cut a window out of a video; `fps` is of a folder of frames.
    """

    kind: Literal["image", "video", "frames"]
    path: str = ""
    data: bytes | None = None
    start_s: float | None = None
    end_s: float | None = None
    fps: float | None = None


@dataclass(frozen=True, slots=True)
class Reference:
    """The right answer as the source has it; `pelican.data.importing.answers` reads it.

    `value`: a text, number, letter, index (of `options`), list, or None where `mask` says it all.
    `kind` is set where the format leaves no doubt; `index` says that a number counts options from 0.
    """

    value: object = None
    kind: str = ""
    options: tuple[str, ...] = ()
    index: bool = False
    unit: str = ""
    mask: Media | None = None
    scale: int | None = None
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Record:
    """One question of a source. Empty strings are what the source does not say.

    `place` is where it stands, for a person; `key` tells it from other records by its content.
    """

    place: str
    key: str
    turns: tuple[Turn, ...]
    media: tuple[Media, ...]
    reference: Reference
    id: str = ""
    question_type: str = ""
    source: str = ""
    scene: str = ""
    split: str = ""
    license: str = ""
    benchmark: str = ""
    family: str = ""
    dimension: str = ""


@dataclass(frozen=True, slots=True)
class Unread:
    """A row that is no record: what stands there is wrong."""

    place: str
    key: str
    id: str
    error: RowError


Found = Record | Unread


@dataclass(frozen=True)
class Options:
    """What a person may say about a source. `columns`: our name -> the source's."""

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
            return float(value)
    return None


def list_of(value: object) -> list[Any]:
    """A list as it is, one thing as a list of it, None as nothing."""
    if value is None or value == "":
        return []
    return list(value) if isinstance(value, list | tuple) else [value]
