"""The rows of a pool's shards as plain values; a row whose text can't be read is a RowError."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pelican.data.quarantine import RowError
from pelican.data.tables import SAMPLES, open_parquet
from pelican.errors import UserInputError

OPTIONAL = frozenset({"benchmark", "chance"})  # columns with a default
_BATCH = 64


def shard_rows(
    path: Path, rows: set[int] | None, columns: tuple[str, ...] | None = None
) -> Iterator[tuple[int, dict[str, Any] | RowError]]:
    """(row, values) of one shard. `rows` None: every row, its images without their bytes.

    With `columns` exactly those are read of every row, bytes included.
    """
    file = open_parquet(path)
    names = _column_names(path, file.schema_arrow)
    if columns is not None:
        chosen = list(columns)
    elif rows is not None:
        chosen = names
    else:
        chosen = [n for n in names if n != "images"] + _image_length_column(file)
    start = 0
    try:
        for group in range(file.num_row_groups):
            count = file.metadata.row_group(group).num_rows
            if rows is None or any(start <= r < start + count for r in rows):
                at = start
                for batch in file.iter_batches(_BATCH, row_groups=[group], columns=chosen):
                    ids = range(at, at + batch.num_rows)
                    at += batch.num_rows
                    if rows is None:
                        yield from zip(ids, _values(batch), strict=True)
                    elif keep := [i for i in ids if i in rows]:
                        part = batch.take(pa.array([i - ids.start for i in keep]))
                        yield from zip(keep, _values(part), strict=True)
            start += count
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


def _values(batch: pa.RecordBatch) -> Iterator[dict[str, Any] | RowError]:
    """Rows as Python values; Arrow does not check that strings are UTF-8, so we do, row by row."""
    try:
        yield from batch.to_pylist()
        return
    except UnicodeDecodeError:
        pass
    for i in range(batch.num_rows):
        try:
            (row,) = batch.slice(i, 1).to_pylist()
            yield row
        except UnicodeDecodeError as error:
            yield RowError("text", f"text is not UTF-8 ({error.reason})")
