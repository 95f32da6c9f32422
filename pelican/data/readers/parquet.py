"""Parquet files of questions; also Pelican's own pools."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from pelican.data.quarantine import RowError
from pelican.data.readers.base import (
    Found,
    Media,
    Options,
    Reader,
    Record,
    Reference,
    Unread,
    record_key,
)
from pelican.data.readers.columns import looks_like_questions, table_records
from pelican.data.readers.source import Source
from pelican.data.tables import SAMPLES
from pelican.records import Turn

_POOL = set(SAMPLES.names) - {"benchmark", "chance"}


class Parquet(Reader):
    name = "parquet"
    about = "*.parquet with a column for question, answer and image or video; Pelican's pools"

    def sniff(self, source: Source, options: Options) -> float:
        for path in source.of(".parquet")[:3]:
            try:
                names = set(pq.read_schema(path).names)
            except (pa.ArrowException, OSError):
                continue
            if names >= _POOL:
                return 0.95
            if looks_like_questions(names, options):
                return 0.7
        return 0.0

    def read(self, source: Source, options: Options) -> Iterator[Found]:
        for path in source.of(".parquet"):
            name, number = source.name(path), 0
            try:
                file = pq.ParquetFile(path)
                pool = set(file.schema_arrow.names) >= _POOL
                for batch in file.iter_batches(batch_size=16):
                    for row in _rows(batch):
                        number += 1
                        place = f"{name}, row {number}"
                        if isinstance(row, RowError):
                            yield Unread(place, record_key(place), "", row)
                        elif pool:
                            yield _sample(row, place)
                        else:
                            yield from table_records(row, place, options)
            except (pa.ArrowException, OSError) as error:
                reason = str(error).splitlines()[0]
                why = RowError("file", f"not readable as Parquet after row {number} ({reason})")
                yield Unread(name, record_key([name, number]), "", why)


def _rows(batch: pa.RecordBatch) -> Iterator[dict[str, Any] | RowError]:
    """Arrow does not check that strings are UTF-8: a row at a time where a batch has a bad one."""
    for i in range(batch.num_rows):
        try:
            yield batch.slice(i, 1).to_pylist()[0]
        except UnicodeDecodeError:
            yield RowError("text", "text is not UTF-8")


def _sample(row: dict[str, Any], place: str) -> Found:
    """A row of a pool: nothing is left to guess."""
    key = record_key(row)
    name = str(row.get("id") or "")
    try:
        answer = json.loads(row["answer"])
        turns = tuple(Turn.model_validate(turn) for turn in row["turns"])
        images, times = row["images"], row["times_s"]
    except (ValidationError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        return Unread(place, key, name, RowError("schema", reason))
    clip = row["media_kind"] == "clip"
    return Record(
        place=place,
        key=key,
        turns=turns,
        media=tuple(
            Media("image", str(i.get("path") or ""), i.get("bytes"), start_s=t if clip else None)
            for i, t in zip(images, times, strict=False)
        ),
        reference=Reference(answer, "pelican"),
        id=name,
        source=str(row["source"]),
        scene=str(row["scene"]),
        split=str(row["split"]),
        license=str(row.get("license") or ""),
        benchmark=str(row.get("benchmark") or ""),
        family=str(row["family"]),
        dimension=str(row["dimension"]),
    )


READER = Parquet()
