"""Rows of JSON, JSON Lines, TSV and Parquet files, and the images and masks that they name."""

from __future__ import annotations

import base64
import binascii
import csv
import io
import json
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pelican.benchmarks.base import Picture, Row
from pelican.data.images import FORMATS, image_bytes
from pelican.data.quarantine import RowError
from pelican.errors import UserInputError

_PLACEHOLDER = re.compile(r"\s*<image(?:\s*\d+)?>\s*")


def files_below(folder: Path, patterns: Iterable[str], wanted: str) -> list[Path]:
    """The files of the first pattern that matches any. `wanted` says what was looked for."""
    if not folder.is_dir():
        raise UserInputError(f"{folder} is not a folder; give --data the benchmark's folder")
    for pattern in patterns:
        found = sorted(path for path in folder.glob(pattern) if path.is_file())
        if found:
            return found
    raise UserInputError(f"{folder} holds no {wanted}; docs/benchmarks-vlm.md gives the layouts")


def read_file(path: Path) -> Iterator[Row]:
    """The rows of one file, by its ending."""
    try:
        if path.suffix == ".parquet":
            yield from _parquet(path)
        elif path.suffix == ".tsv":
            yield from _tsv(path)
        elif path.suffix == ".jsonl":
            for line in path.read_text(encoding="utf-8").splitlines():
                if line.strip():
                    yield _object(json.loads(line), path)
        else:
            value = json.loads(path.read_text(encoding="utf-8"))
            for row in value if isinstance(value, list) else [value]:
                yield _object(row, path)
    except (ValueError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserInputError(f"{path} can't be read ({reason}); download it again") from None


def read_files(paths: Iterable[Path], folder: Path) -> Iterator[tuple[str, Row]]:
    """The rows of several files, each with its file's name below `folder`."""
    for path in paths:
        for row in read_file(path):
            yield path.relative_to(folder).as_posix(), row


def _object(value: object, path: Path) -> Row:
    if not isinstance(value, dict):
        raise UserInputError(f"{path} holds a {type(value).__name__} where a row is expected")
    return value


def _parquet(path: Path) -> Iterator[Row]:
    from pelican.data.tables import open_parquet

    for batch in open_parquet(path).iter_batches(batch_size=32):
        yield from batch.to_pylist()


def _tsv(path: Path) -> Iterator[Row]:
    csv.field_size_limit(min(sys.maxsize, 1 << 31))  # a cell holds a whole image
    with path.open(encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file, delimiter="\t")


def text(row: Row, *names: str) -> str:
    """The first of these fields that is there, as text. Raises RowError if it is empty."""
    for name in names:
        value = row.get(name)
        if value is not None and str(value).strip():
            return str(value)
    raise RowError("schema", f"{' or '.join(names)} is missing")


def texts(row: Row, name: str) -> tuple[str, ...]:
    """A list of at least two texts, also if it stands as JSON or Python in a cell."""
    value = row.get(name)
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            value = None
    if not isinstance(value, list) or len(value) < 2:
        raise RowError("schema", f"{name} is not a list of at least two options")
    return tuple(str(item) for item in value)


def letter_of(answer: object, options: int) -> str:
    """A letter from "B", "(B)" or the index 1. Raises RowError if it is outside the options."""
    if isinstance(answer, int) and not isinstance(answer, bool):
        index = answer
    else:
        bare = str(answer).strip().strip("().").upper()
        index = int(bare) if bare.isdecimal() else ord(bare) - ord("A") if len(bare) == 1 else -1
    if not 0 <= index < options:
        raise RowError("answer", f"answer {answer!r} is outside its {options} options")
    return chr(ord("A") + index)


def lettered(options: Iterable[str], form: str) -> str:
    """One option a line, such as "(A) red"; `form` has the fields letter and option."""
    return "\n".join(
        form.format(letter=chr(ord("A") + i), option=option) for i, option in enumerate(options)
    )


def without_placeholders(prompt: str) -> str:
    """The text without `<image>`: all images stand before it, in their order."""
    return _PLACEHOLDER.sub(" ", prompt).strip() if "<image" in prompt else prompt


def picture(value: object) -> Picture:
    """An image as it stands in a row: Parquet's bytes and path, a path, or base64."""
    if isinstance(value, dict):
        if value.get("bytes"):
            return Picture(data=value["bytes"])
        value = value.get("path")
    if isinstance(value, bytes) and value:
        return Picture(data=value)
    if not isinstance(value, str) or not value:
        raise RowError("image_missing", "an image is missing")
    if len(value) < 512:  # no image is as small in base64
        return Picture(path=value)
    try:
        return Picture(data=base64.b64decode(value, validate=True))
    except (binascii.Error, ValueError):
        raise RowError("image_unreadable", "an image is not base64") from None


def pictures(values: Iterable[object]) -> tuple[Picture, ...]:
    """The images that are there. Raises RowError if none is."""
    found = tuple(picture(value) for value in values if value is not None)
    if not found:
        raise RowError("image_missing", "the row has no image")
    return found


def encoded(image: Picture, folder: Path) -> bytes:
    """The bytes of an image. Raises RowError, also if its path leaves the folder."""
    return image_bytes({"bytes": image.data, "path": image.path}, folder)


def grey_values(image: Picture, folder: Path) -> NDArray[np.float64]:
    """A mask as values 0 … 1, shape [height, width]: the first channel over 255."""
    try:
        with Image.open(io.BytesIO(encoded(image, folder)), formats=FORMATS) as opened:
            pixels: NDArray[Any] = np.asarray(opened)
    except RowError:
        raise
    except Exception as error:  # a decoder raises whatever it likes
        raise RowError("image_unreadable", f"a mask can't be decoded ({error})") from None
    if pixels.ndim == 3:
        pixels = pixels[:, :, 0]
    if pixels.dtype == bool:
        return pixels.astype(np.float64)
    return pixels.astype(np.float64) / 255.0
