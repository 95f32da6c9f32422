"""The rows of a pool's shards as plain values; a row whose text can't be read is a RowError."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pelican.data.quarantine import RowError
from pelican.data.tables import SAMPLES, open_parquet
from pelican.errors import UserInputError

OPTIONAL = frozenset({"benchmark", "chance"})  # columns with a default
_BATCH = 64
_LIGHT_BATCH = 1 << 16  # without the images' bytes


def shard_batches(path: Path) -> Iterator[tuple[int, pa.RecordBatch]]:
    """All rows of a shard, their images without their bytes: (number of the first, some rows)."""
    file = open_parquet(path)
    names = [n for n in _column_names(path, file.schema_arrow) if n != "images"]
    lengths = _image_length_column(file)
    size = _BATCH if any(leaf.endswith(".bytes") for leaf in lengths) else _LIGHT_BATCH
    start = 0
    with _to_its_end(path):
        for batch in file.iter_batches(size, columns=names + lengths):
            yield start, batch
            start += batch.num_rows


def shard_rows(
    path: Path, rows: set[int] | None, columns: tuple[str, ...] | None = None
) -> Iterator[tuple[int, dict[str, Any] | RowError]]:
    """(row, values) of one shard, images and all. `rows` None: every row.

    With `columns` exactly those are read.
    """
    file = open_parquet(path)
    names = _column_names(path, file.schema_arrow)
    wanted = None if rows is None else sorted(rows)
    start = 0
    with _to_its_end(path):
        for group in range(file.num_row_groups):
            at = start
            start += file.metadata.row_group(group).num_rows
            if wanted is not None and bisect_left(wanted, at) == bisect_left(wanted, start):
                continue
            for batch in file.iter_batches(_BATCH, row_groups=[group], columns=columns or names):
                ids = range(at, at + batch.num_rows)
                at += batch.num_rows
                if rows is None:
                    yield from zip(ids, values_of(batch), strict=True)
                elif keep := [i for i in ids if i in rows]:
                    places = [i - ids.start for i in keep]
                    yield from zip(keep, values_of(batch, places), strict=True)


@contextmanager
def _to_its_end(path: Path) -> Iterator[None]:
    """Raise UserInputError if the shard is damaged further on."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserInputError(
            f"{path} can't be read to its end ({reason}); write it again"
        ) from None


def _column_names(path: Path, schema: pa.Schema) -> list[str]:
    """The columns to read. Raises UserInputError if the shard has not the shape of a pool's."""
    missing = [n for n in SAMPLES.names if n not in schema.names and n not in OPTIONAL]
    if missing:
        raise UserInputError(
            f"{path} lacks the columns {', '.join(missing)}; docs/data.md gives the schema"
        )
    images = schema.field("images").type
    lists = pa.types.is_list(images) or pa.types.is_large_list(images)
    item = images.value_type if lists else None
    if item is None or not pa.types.is_struct(item) or item.get_field_index("bytes") < 0:
        raise UserInputError(
            f"{path} has images of type {images}, not a list of bytes and path;"
            " docs/data.md gives the schema"
        )
    return [n for n in SAMPLES.names if n in schema.names]


def _image_length_column(file: pq.ParquetFile) -> list[str]:
    """The cheapest leaf of `images`: its values are ignored, only how many there are counts."""
    leaves = [file.schema.column(i).path for i in range(len(file.schema))]
    leaves = [leaf for leaf in leaves if leaf.startswith("images.")]
    return sorted(leaves, key=lambda leaf: leaf.endswith(".bytes"))[:1]


def values_of(
    batch: pa.RecordBatch, rows: Sequence[int] | None = None
) -> Iterator[dict[str, Any] | RowError]:
    """Rows as Python values, all or some in rising order.

    Arrow does not check that strings are UTF-8, so we do, row by row.
    """
    wanted = range(batch.num_rows) if rows is None else rows
    for start, places in groupby(wanted, lambda row: row - row % _BATCH):
        part = batch.slice(start, _BATCH)
        at = [place - start for place in places]
        if len(at) < _BATCH // 8:
            yield from (_row(part, i) for i in at)
            continue
        try:
            values = part.to_pylist()
        except UnicodeDecodeError:
            values = [_row(part, i) for i in range(part.num_rows)]
        yield from (values[i] for i in at)


def _row(part: pa.RecordBatch, number: int) -> dict[str, Any] | RowError:
    try:
        (row,) = part.slice(number, 1).to_pylist()
    except UnicodeDecodeError as error:
        return RowError("text", f"text is not UTF-8 ({error.reason})")
    return row  # type: ignore[no-any-return]
