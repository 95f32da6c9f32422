"""Parquet tables of the records: schemas, readers, writers; and the quarantine of unusable rows."""

from __future__ import annotations

import json
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path
from reprlib import Repr
from typing import Any, TypeVar

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, TypeAdapter, ValidationError

from pelican.base.files import replacing
from pelican.data.corrections import NONE, Corrections
from pelican.errors import UserInputError
from pelican.records import (
    Answer,
    Dimension,
    Family,
    LedgerRow,
    Rollout,
    Sample,
    Score,
    Split,
    Turn,
)

# Tables of the records: their schemas, and how they are written and read.
#
# Sample shards carry Hugging Face's feature metadata, so that `datasets.load_dataset("parquet", …)`
# opens them with decoded images. Equal images of a shard are stored once (dictionary encoding).

_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_TURN = pa.struct([("role", pa.string()), ("text", pa.string())])

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
        ("prompt_tokens", pa.int32()),
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
    for path in paths:
        if not path.is_file():  # who opens a named pipe waits for ever
            raise UserInputError(f"{path} is no regular file; move it away")
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


# Quarantine: a row that can't be used is kept with its place and reason, and counted.

# What may be wrong with a row, by the code under which it is counted.
CODES: dict[str, str] = {
    "text": "text that is not UTF-8",
    "schema": "a field is missing or of the wrong type or value",
    "answer": "the answer can't be read or lies outside its choices, frame or clip",
    "not_finite": "a number is NaN or infinite",
    "duplicate_id": "the id occurred before; the first row keeps it",
    "clip_step": "a clip that is shorter than a frame step",
    "image_missing": "an image has neither bytes nor a readable file",
    "image_path": "an image's path leaves the data folder",
    "image_unreadable": "an image can't be decoded to its end",
    "image_huge": "an image is too large to be decoded safely",
    "markup": "text with a chat template's tokens, or, imported, control characters",
    # Of an import (docs/data.md):
    "json": "not JSON, or a file that is cut off",
    "file": "a file that can't be read to its end",
    "text_long": "a question too long for any prompt",
    "answer_missing": "no answer",
    "mask_size": "a mask of another size than its image",
    "media_missing": "a medium that is not there",
    "media_path": "a path that leaves the media folders",
    "media_mixed": "images and videos in one row",
    "media_tags": "more <image> or <video> tags than media",
    "media_marks": "a mark such as <bbox> or <audio> that nothing of the row can fill",
    "image_shape": "an image too small or too narrow to show anything",
    "image_moving": "an animation, which is no still",
    "image_range": "16-bit values such as depth, whose black and white nobody says",
    "video_unreadable": "a video that can't be opened",
    "video_no_picture": "a video without a picture, such as sound alone",
    "video_truncated": "a video that ends before its window, or can't be decoded on",
    "video_window": "a window that is empty or outside its video",
    "clip_long": "a clip longer than the longest horizon",
}


MAX_REASON = 400  # characters: a row may hold whole pictures as text
MAX_NAMED = 200  # of one value in it


def named(value: object) -> str:
    """A value of a row for a sentence, such as a path: as Python writes it, its middle left out."""
    if isinstance(value, str | bytes | bytearray):
        half = MAX_NAMED // 2
        long = len(value) > MAX_NAMED
        return f"{value[:half]!r} … {value[-half:]!r}" if long else repr(value)
    return _BRIEF.repr(value)


_BRIEF = Repr()
_BRIEF.maxstring = _BRIEF.maxother = MAX_NAMED // 2


class RowError(ValueError):
    """One row is unusable; `code` is a key of CODES. A reason is cut at MAX_REASON characters."""

    def __init__(self, code: str, reason: str) -> None:
        if len(reason) > MAX_REASON:
            reason = reason[: MAX_REASON - 1] + "…"
        super().__init__(reason)
        self.code = code
        self.reason = reason


@dataclass(frozen=True, slots=True)
class QuarantineRow:
    """One row that was left out. `row` counts from 1 within its shard."""

    shard: str
    row: int
    id: str
    code: str
    reason: str

    def __str__(self) -> str:
        return f"{self.shard}, row {self.row} ({self.id or 'no id'}): {self.reason}"


@dataclass
class Quarantine:
    """The rows left out of a pool."""

    rows: list[QuarantineRow] = field(default_factory=list)

    def add(self, shard: str, index: int, id: str, error: RowError) -> None:
        """`index` counts from 0, as readers do; people count rows from 1."""
        self.rows.append(QuarantineRow(shard, index + 1, id, error.code, error.reason))

    def extend(self, rows: Iterable[QuarantineRow]) -> None:
        self.rows.extend(rows)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def counts(self) -> dict[str, int]:
        """Rows by code, sorted by code."""
        return dict(sorted(Counter(row.code for row in self.rows).items()))

    def notes(self, limit: int = 200) -> list[dict[str, Any]]:
        """The first `limit` rows for a manifest."""
        return [asdict(row) for row in self.rows[:limit]]


# Rows of shards as plain values; one whose text is not UTF-8 is a `RowError`.

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


# A pool without its images, as columns: what scoring and bookkeeping need.

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
