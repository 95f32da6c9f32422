"""The questions of a pool without their images: what scoring and bookkeeping need, cheaply."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import polars as pl
from pydantic import TypeAdapter, ValidationError

from pelican.data.corrections import NONE, Corrections
from pelican.data.tables import open_parquet, shard_paths
from pelican.errors import UserInputError
from pelican.records import Answer, Dimension, Family, Sample, Split, Turn

_ANSWER: TypeAdapter[Answer] = TypeAdapter(Answer)
_TURNS: TypeAdapter[tuple[Turn, ...]] = TypeAdapter(tuple[Turn, ...])
COLUMNS = ("id", "family", "dimension", "source", "turns", "answer")


def pool_columns(
    folder: Path, columns: tuple[str, ...] = COLUMNS, corrections: Corrections = NONE
) -> pl.DataFrame:
    """Some columns of every sample below `folder`, not its images; of equal ids the first row.

    Nothing is validated: bad rows are the pool reader's business (`pelican.data.pool`), which puts
    them in quarantine before they are rolled out. Raises UserInputError if there is no row.
    """
    frames = []
    for path in shard_paths(folder):
        file = open_parquet(path)
        missing = [name for name in columns if name not in file.schema_arrow.names]
        if missing:
            raise UserInputError(
                f"{path} lacks the columns {', '.join(missing)}; docs/data.md gives the schema"
            )
        table = file.read(columns=list(columns)).replace_schema_metadata(None)
        frame = pl.from_arrow(table)
        assert isinstance(frame, pl.DataFrame)
        frames.append(frame)
    pool = pl.concat(frames, how="vertical_relaxed").unique("id", keep="first", maintain_order=True)
    pool = corrections.frame(pool)
    if pool.is_empty():
        raise UserInputError(f"pool {folder} holds no sample; check the recipe's data section")
    return pool


def questions(frame: pl.DataFrame) -> Iterator[Sample]:
    """Samples with no images, from the columns `COLUMNS`. Raises UserInputError for a bad row."""
    for row in frame.iter_rows(named=True):
        try:
            yield Sample.model_construct(
                id=row["id"],
                media_kind="image",
                images=(),
                times_s=(),
                turns=_TURNS.validate_python(row["turns"]),
                family=Family(row["family"]),
                dimension=Dimension(row["dimension"]),
                answer=_ANSWER.validate_json(row["answer"]),
                source=row["source"],
                scene="",
                split=Split.TRAIN,
            )
        except (ValidationError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise UserInputError(f"sample {row['id']!r} can't be scored: {reason}") from None
