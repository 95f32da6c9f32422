"""Rows of files that are tables: JSON, JSON lines, CSV, TSV and Parquet, all by one interface."""

from __future__ import annotations

import ast
import csv
import re
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pelican.base.parse import parse_json
from pelican.data.formats.base import MAX_ROW, NOT_UTF8, JsonRow, Source, json_rows
from pelican.data.signatures import pointer_in
from pelican.data.tables import RowError
from pelican.errors import UserInputError

TEXTS = (".json", ".jsonl", ".csv", ".tsv")
TABLES = (*TEXTS, ".parquet")
SNIFFED, FILES = 3, 8  # rows of a file, and files, that tell a layout
MAX_LIST = 20_000  # characters of a list in a cell

csv.field_size_limit(MAX_ROW)


def read_rows(path: Path) -> Iterator[JsonRow]:
    """Every row of one file. Raises UserInputError if it can't be opened."""
    ending = path.suffix.lower()
    if ending in (".csv", ".tsv"):
        return _csv_rows(path, "\t" if ending == ".tsv" else ",")
    return _parquet_rows(path) if ending == ".parquet" else json_rows(path)


def first_values(source: Source, endings: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The first good rows of the source's first files of these endings: to tell its layout."""
    for path in source.of(*endings)[:FILES]:
        if path not in source.heads:
            try:
                rows = [row.value for row in islice(read_rows(path), SNIFFED)]
            except UserInputError:
                rows = []
            source.heads[path] = [value for value in rows if isinstance(value, dict)]
        yield from source.heads[path]


def _csv_rows(path: Path, delimiter: str) -> Iterator[JsonRow]:
    number = 0
    try:
        with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            head = file.readline()
            file.seek(0)
            if delimiter == "," and "," not in head:  # as Excel writes it where 1,5 is a number
                delimiter = next((mark for mark in ";\t" if mark in head), delimiter)
            for number, cells in enumerate(csv.DictReader(file, delimiter=delimiter), 1):
                raw = delimiter.join(str(cell) for cell in cells.values())
                if None in cells:
                    fault = RowError("file", "the row has more cells than the file has columns")
                    yield JsonRow(number, None, raw, fault)
                elif not raw.isascii() and NOT_UTF8.search(raw):
                    yield JsonRow(number, None, raw, RowError("text", "text is not UTF-8"))
                else:
                    yield JsonRow(number, {k: _cell(v) for k, v in cells.items()}, raw)
    except csv.Error as error:
        yield JsonRow(number + 1, None, "", RowError("file", f"not readable as CSV ({error})"))
    except OSError as error:
        raise UserInputError(f"{path} can't be read ({error.strerror})") from None


def _cell(text: str | None) -> Any:
    """None of an empty cell; a list of texts or objects, as JSON or as Python prints it; else the text."""
    if not text:
        return None
    found = written_list(text)
    return text if found is None else found


_NO_COMMA = re.compile(r"""(['"])(\s+)(?=['"])""")


def written_list(text: str) -> list[Any] | None:
    """The list of texts or objects that a text is, as JSON or as Python or NumPy prints it.

    None of any other text: coordinates stay as they were written.
    """
    if not (text[:1] == "[" and text.endswith("]") and len(text) <= MAX_LIST):
        return None
    for read in (parse_json, _of_python):
        try:
            found = read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(found, list) and all(isinstance(one, str | dict) for one in found):
            return found
    return None


def _of_python(text: str) -> Any:
    """NumPy prints no commas, and Python would make one text of two that follow each other."""
    return ast.literal_eval(_NO_COMMA.sub(r"\1,\2", text))


def _parquet_rows(path: Path) -> Iterator[JsonRow]:
    number = 0
    try:
        for batch in pq.ParquetFile(path).iter_batches(batch_size=16):
            for row in batch_rows(batch):
                number += 1
                if isinstance(row, RowError):
                    yield JsonRow(number, None, f"{path.name} {number}", row)
                else:
                    yield JsonRow(number, row)
    except (pa.ArrowException, OSError) as error:
        why = not_parquet(path, number, error)
        yield JsonRow(number + 1, None, f"{path.name} {number}", why)


def not_parquet(path: Path, number: int, error: Exception) -> RowError:
    """Why a file can't be read as Parquet after its row `number`."""
    what = pointer_in(path)
    reason = f"it is {what}" if what else str(error).splitlines()[0]
    return RowError("file", f"not readable as Parquet after row {number} ({reason})")


def batch_rows(batch: pa.RecordBatch) -> Iterator[dict[str, Any] | RowError]:
    """Rows of a batch, one at a time if one has text that is not UTF-8, which Arrow does not check."""
    for i in range(batch.num_rows):
        try:
            yield batch.slice(i, 1).to_pylist()[0]
        except UnicodeDecodeError:
            yield RowError("text", "text is not UTF-8")


# Names of splits, files and folders that say a split, as Hugging Face's `datasets` reads them.
SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "dev"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}


def split_of(name: str) -> str:
    """The split that a name or a path below the source says, nearest part first; "" if none does.

    For example "validation_seen", "train/metadata.csv", "shards/test-00000.tar".
    """
    parts = PurePosixPath(name).parts
    for part in reversed(parts):
        for word in part.lower().replace(".", "-").replace("_", "-").split("-"):
            if word in SPLITS:
                return SPLITS[word]
    return ""
