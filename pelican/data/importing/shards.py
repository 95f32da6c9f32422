"""Shards of an imported pool: the columns of docs/data.md, and where each row came from."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from pelican.data.importing.convert import Good
from pelican.data.tables import SAMPLES, open_parquet, sample_row, write_table

# `origin`: where the row stands in its source; `key`: digest of the row there; `rule`,
# `confidence`: how its family and dimension were found.
EXTRAS = (
    ("license", pa.string()),
    ("origin", pa.string()),
    ("key", pa.string()),
    ("rule", pa.string()),
    ("confidence", pa.float64()),
)
MAX_ROWS = 1000  # of a shard
MAX_BYTES = 48 << 20  # of a shard's media, which bounds the memory of writing it


def _schema() -> pa.Schema:
    info = json.loads(SAMPLES.metadata[b"huggingface"])
    for name, kind in EXTRAS:
        dtype = "float64" if pa.types.is_floating(kind) else "string"
        info["info"]["features"][name] = {"dtype": dtype, "_type": "Value"}
    fields = [*SAMPLES, *(pa.field(name, kind) for name, kind in EXTRAS)]
    return pa.schema(fields, metadata={"huggingface": json.dumps(info)})


IMPORTED = _schema()


def write_shard(path: Path, rows: Sequence[Good]) -> None:
    """Under a temporary name first."""
    table = [
        {
            **sample_row(row.sample),
            "license": row.license,
            "origin": row.place,
            "key": row.key,
            "rule": row.label.rule,
            "confidence": row.label.confidence,
        }
        for row in rows
    ]
    write_table(path, pa.Table.from_pylist(table, schema=IMPORTED))


def read_columns(paths: Sequence[Path], names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Some columns of every row; those a shard lacks are None."""
    for path in paths:
        file = open_parquet(path)
        there = [name for name in names if name in file.schema_arrow.names]
        missing = dict.fromkeys(set(names) - set(there))
        for batch in file.iter_batches(batch_size=1024, columns=there):
            for row in batch.to_pylist():
                yield {**missing, **row}
