"""Parquet tables of the records: schemas, readers and writers.

Sample shards carry Hugging Face's feature metadata, so that `datasets.load_dataset("parquet", …)`
opens them with decoded images. Equal images of a shard are stored once (dictionary encoding).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, TypeAdapter, ValidationError

from pelican.errors import UserInputError
from pelican.files import replacing
from pelican.records import Answer, LedgerRow, Rollout, Sample, Score

if TYPE_CHECKING:
    import polars as pl

_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_TURN = pa.struct([("role", pa.string()), ("text", pa.string())])
_ANSWER: TypeAdapter[Answer] = TypeAdapter(Answer)

_SAMPLE_FIELDS = [
    ("id", pa.string()),
    ("media_kind", pa.string()),
    ("images", pa.list_(_IMAGE)),
    ("times_s", pa.list_(pa.float64())),
    ("turns", pa.list_(_TURN)),
    ("family", pa.string()),
    ("dimension", pa.string()),
    ("answer", pa.string()),
    ("source", pa.string()),
    ("scene", pa.string()),
    ("split", pa.string()),
    ("benchmark", pa.string()),
    ("chance", pa.float64()),
]


def _features() -> dict[str, object]:
    """The columns in the words of Hugging Face `datasets`."""

    def value(dtype: str) -> dict[str, object]:
        return {"dtype": dtype, "_type": "Value"}

    features: dict[str, object] = {
        name: value("float64" if pa.types.is_floating(kind) else "string")
        for name, kind in _SAMPLE_FIELDS
    }
    features["images"] = {"feature": {"_type": "Image"}, "_type": "List"}
    features["times_s"] = {"feature": value("float64"), "_type": "List"}
    features["turns"] = {
        "feature": {"role": value("string"), "text": value("string")},
        "_type": "List",
    }
    return features


SAMPLES = pa.schema(
    _SAMPLE_FIELDS,
    metadata={"huggingface": json.dumps({"info": {"features": _features()}})},
)
ROLLOUTS = pa.schema(
    [
        ("sample_id", pa.string()),
        ("index", pa.int32()),
        ("seed", pa.int64()),
        ("completion", pa.string()),
        ("tokens", pa.int32()),
        ("finish", pa.string()),
    ]
)
SCORES = pa.schema(
    [
        ("sample_id", pa.string()),
        ("index", pa.int32()),
        ("reward", pa.float64()),
        ("format", pa.float64()),
        ("task", pa.float64()),
        ("success", pa.bool_()),
        ("think_chars", pa.int32()),
        ("answer", pa.string()),
        ("reason", pa.string()),
    ]
)
LEDGER = pa.schema(
    [
        ("sample_id", pa.string()),
        ("loop", pa.int32()),
        ("phase", pa.string()),
        ("success_rate", pa.float64()),
        ("mean_reward", pa.float64()),
        ("rollouts", pa.int32()),
        ("policy", pa.string()),
        ("family", pa.string()),
        ("dimension", pa.string()),
        ("source", pa.string()),
        ("outcome", pa.string()),
    ]
)
_SCHEMAS: dict[type[BaseModel], pa.Schema] = {
    Rollout: ROLLOUTS,
    Score: SCORES,
    LedgerRow: LEDGER,
}
Row = TypeVar("Row", bound=BaseModel)


def write_table(path: Path, table: pa.Table) -> None:
    """Write one Parquet file (zstd), first under a temporary name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        pq.write_table(
            table, file, compression="zstd", dictionary_pagesize_limit=64 << 20, row_group_size=512
        )


def write_frame(path: Path, frame: pl.DataFrame) -> None:
    """Write many short rows, all cores at once; first under a temporary name.

    lz4, which every reader of Parquet 2.9 knows, for zstd takes longer than all else. No least and
    largest values: of row groups this large they exclude nothing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = {"min": False, "max": False, "null_count": True}
    with replacing(path) as file:
        frame.write_parquet(file, compression="lz4", statistics=kept, row_group_size=1 << 18)


def sample_row(sample: Sample) -> dict[str, object]:
    """A sample as a row of SAMPLES."""
    return {
        **sample.model_dump(mode="json", exclude={"images", "answer"}),
        "images": [{"bytes": image, "path": None} for image in sample.images],
        "answer": sample.answer.model_dump_json(),
    }


def write_samples(path: Path, samples: Sequence[Sample]) -> None:
    """Write samples to one shard; those of one scene should stand together."""
    rows = [sample_row(sample) for sample in samples]
    write_table(path, pa.Table.from_pylist(rows, schema=SAMPLES))


def answer_from_json(text: str) -> Answer:
    """An answer as it stands in a shard. Raises ValueError that names what is wrong."""
    return _ANSWER.validate_json(text)


def sample_from_row(row: dict[str, object]) -> Sample:
    """One row of a sample shard. Raises ValueError that names what is wrong."""
    images = [image["bytes"] for image in row["images"]]  # type: ignore[attr-defined]
    answer = answer_from_json(row["answer"])  # type: ignore[arg-type]
    return Sample.model_validate({**row, "images": images, "answer": answer})


def shard_paths(folder: Path) -> list[Path]:
    """The Parquet shards of a folder (or the one file), in order."""
    paths = [folder] if folder.is_file() else sorted(folder.glob("*.parquet"))
    if not paths:
        raise UserInputError(f"no *.parquet shard in {folder}; check the recipe's data section")
    return paths


def read_samples(folder: Path) -> Iterator[Sample]:
    """Every sample below `folder`. For pools of unknown quality use `pelican.data.pool`."""
    for path in shard_paths(folder):
        for batch in open_parquet(path).iter_batches(batch_size=256):
            for row in batch.to_pylist():
                try:
                    yield sample_from_row(row)
                except ValidationError as error:
                    raise UserInputError(
                        f"{path.name}, sample {row.get('id')!r}: {error}"
                    ) from None


def open_parquet(path: Path) -> pq.ParquetFile:
    """Open a Parquet file, or say in one sentence why it can't be."""
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserInputError(
            f"{path} is not a readable Parquet file ({reason}); write it again"
        ) from None


def write_rows(path: Path, rows: Sequence[Row], kind: type[Row]) -> None:
    """Write rollouts, scores or ledger rows."""
    data = [row.model_dump(mode="json") for row in rows]
    write_table(path, pa.Table.from_pylist(data, schema=_SCHEMAS[kind]))


def read_rows(paths: Iterable[Path], kind: type[Row]) -> Iterator[Row]:
    """Read back what `write_rows` wrote."""
    for path in paths:
        for batch in open_parquet(path).iter_batches():
            for row in batch.to_pylist():
                yield kind.model_validate(row)
