"""A pool of samples of unknown quality: an index of its usable rows, and their images on demand.

What is wrong with one row puts that row in quarantine; what is wrong with a file or the whole pool
is a UserInputError. See docs/data.md.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from pelican.data.corrections import NONE, Corrections
from pelican.data.images import ImageChecker, image_bytes, image_digest
from pelican.data.quarantine import Quarantine, RowError
from pelican.data.tables import SAMPLES, open_parquet, sample_from_row, shard_paths
from pelican.errors import UserInputError
from pelican.records import Dimension, Family, IntervalAnswer, Mask, PointsAnswer, Sample, Split
from pelican.rewards.score import scorer_of

OPTIONAL = frozenset({"benchmark", "chance"})  # columns with a default
MIN_STEP_S = 1 / 240  # no camera of a robot is faster
MAX_MASK_PIXELS = 1 << 26
TRAINING_POOLS = frozenset({"train", "replay"})
_BATCH = 64


@dataclass(frozen=True, slots=True)
class Entry:
    """One usable row of a pool, all but its images."""

    id: str
    family: Family
    dimension: Dimension
    span_s: float
    scene: str
    split: Split
    source: str
    question: str
    answer_kind: str
    clip: bool
    shard: int
    row: int


@dataclass(frozen=True)
class PoolIndex:
    """The usable rows of a pool in order; the images are still unread."""

    folder: Path
    shards: tuple[Path, ...]
    entries: tuple[Entry, ...]
    quarantine: Quarantine
    corrections: Corrections = NONE
    corrected: Mapping[str, int] = field(default_factory=dict)

    def within(self, horizon_s: float | None) -> list[Entry]:
        """The rows whose clip is not longer than `horizon_s`."""
        return [e for e in self.entries if horizon_s is None or e.span_s <= horizon_s]

    def load(
        self, entries: Iterable[Entry], *, max_pixels: int, quarantine: Quarantine
    ) -> Iterator[Sample]:
        """The samples of `entries` in the order of the pool; bad images go to `quarantine`."""
        wanted: dict[int, dict[int, Entry]] = {}
        for entry in entries:
            wanted.setdefault(entry.shard, {})[entry.row] = entry
        check = ImageChecker(max_pixels)
        for shard in sorted(wanted):
            path, rows = self.shards[shard], wanted[shard]
            for row, values in _read_rows(path, set(rows)):
                try:
                    if isinstance(values, RowError):
                        raise values
                    values = self.corrections.row(values)
                    images = [
                        {"bytes": check(image_bytes(image, self._root))}
                        for image in values["images"]
                    ]
                    sample = sample_from_row({**values, "images": images})
                except RowError as error:
                    quarantine.add(path.name, row, rows[row].id, error)
                else:
                    yield sample

    @property
    def _root(self) -> Path:
        return self.folder if self.folder.is_dir() else self.folder.parent


@dataclass
class Pool:
    """Samples that passed every check, and what did not."""

    samples: list[Sample]
    quarantine: Quarantine
    beyond_horizon: int = 0


def read_index(folder: Path, corrections: Corrections = NONE) -> PoolIndex:
    """Check every row but its images. Raises UserInputError for an unreadable or an empty pool.

    A person's corrections come first, so that a corrected row is checked as any other is.
    """
    shards = tuple(shard_paths(folder))
    quarantine = Quarantine()
    entries: list[Entry] = []
    seen: set[str] = set()
    for number, path in enumerate(shards):
        for row, values in _read_rows(path, None):
            name = ""
            try:
                if isinstance(values, RowError):
                    raise values
                name = str(values["id"] or "")
                if name in seen:
                    raise RowError("duplicate_id", f"id {name!r} occurred before")
                seen.add(name)
                if name not in corrections.dropped:
                    entries.append(_entry(corrections.row(values), number, row))
            except RowError as error:
                quarantine.add(path.name, row, name, error)
    if not entries:
        raise UserInputError(_empty(folder, quarantine))
    counts = corrections.counts(seen)
    return PoolIndex(folder, shards, tuple(entries), quarantine, corrections, counts)


def load_pool(
    folder: Path,
    *,
    max_pixels: int,
    horizon_s: float | None = None,
    ids: Collection[str] | None = None,
    corrections: Corrections = NONE,
) -> Pool:
    """The samples below `folder`, or those of `ids`, checked, with images of at most `max_pixels`.

    A clip longer than the horizon is left out and counted, not cut: its answer may lie in the
    part that would be cut off.
    """
    index = read_index(folder, corrections)
    chosen = set(ids) if ids is not None else None
    entries = [e for e in index.entries if chosen is None or e.id in chosen]
    within = [e for e in entries if horizon_s is None or e.span_s <= horizon_s]
    quarantine = Quarantine(list(index.quarantine.rows))
    samples = list(index.load(within, max_pixels=max_pixels, quarantine=quarantine))
    beyond = len(entries) - len(within)
    if not samples and (chosen is None or chosen):
        raise UserInputError(_empty(folder, quarantine, beyond))
    return Pool(samples, quarantine, beyond)


@dataclass
class PoolReport:
    """What preflight says about one pool."""

    folder: str
    samples: int = 0
    clips: int = 0
    longest_s: float = 0.0
    beyond_horizon: int = 0
    families: Counter[str] = field(default_factory=Counter)
    dimensions: Counter[str] = field(default_factory=Counter)
    splits: Counter[str] = field(default_factory=Counter)
    quarantine: Quarantine = field(default_factory=Quarantine)
    corrected: Mapping[str, int] = field(default_factory=dict)

    def summary(self) -> dict[str, Any]:
        """As JSON, with the first quarantined rows."""
        return {
            "folder": self.folder,
            "samples": self.samples,
            "clips": self.clips,
            "longest_s": self.longest_s,
            "beyond_horizon": self.beyond_horizon,
            "families": dict(sorted(self.families.items())),
            "dimensions": dict(sorted(self.dimensions.items())),
            "splits": dict(sorted(self.splits.items())),
            "quarantined": self.quarantine.counts,
            "quarantine": self.quarantine.notes(),
            "corrected": dict(self.corrected),
        }


def check_pool(
    folder: Path,
    *,
    max_pixels: int,
    horizon_s: float | None = None,
    images: bool = True,
    corrections: Corrections = NONE,
) -> PoolReport:
    """Read a whole pool and keep none of it. `images=False` leaves the images undecoded."""
    index = read_index(folder, corrections)
    quarantine = Quarantine(list(index.quarantine.rows))
    bad: set[str] = set()
    if images:
        good = index.load(index.entries, max_pixels=max_pixels, quarantine=quarantine)
        usable = sum(1 for _ in good)
        bad = {row.id for row in quarantine.rows[len(index.quarantine) :]}
        if not usable:
            raise UserInputError(_empty(folder, quarantine))
    report = PoolReport(str(folder), quarantine=quarantine, corrected=index.corrected)
    for entry in index.entries:
        if entry.id in bad:
            continue
        report.samples += 1
        report.clips += entry.clip
        report.longest_s = max(report.longest_s, entry.span_s)
        report.beyond_horizon += horizon_s is not None and entry.span_s > horizon_s
        report.families[entry.family.value] += 1
        report.dimensions[entry.dimension.value] += 1
        report.splits[entry.split.value] += 1
    return report


@dataclass(frozen=True)
class _Place:
    """Where a scene or an image was seen first."""

    pool: str
    folder: Path
    split: str
    scene: str

    def leaks_to(self, other: _Place) -> bool:
        if self.split != other.split:
            return True
        sides = {p.pool in TRAINING_POOLS for p in (self, other)}
        return len(sides) == 2 and self.folder != other.folder

    def __str__(self) -> str:
        return f"split {self.split} ({self.pool} pool)"


def check_splits(folders: Mapping[str, Path], *, images: bool = True) -> None:
    """Raise UserInputError if a scene or an image is in two of train, dev and test.

    `folders`: pool name -> folder. The pools `train` and `replay` are trained on, any other name
    is held out: the two sides may not share anything either, whatever their rows' `split` says.
    `images=False` reads scenes alone, which is quick in a pool of any size.
    """
    scenes: dict[str, _Place] = {}
    pictures: dict[bytes, _Place] = {}
    columns = ("scene", "split", "images") if images else ("scene", "split")
    for name, folder in folders.items():
        where = folder.resolve()
        root = where if where.is_dir() else where.parent
        for path in shard_paths(folder):
            for _, values in _read_rows(path, None, columns):
                if isinstance(values, RowError):
                    continue  # quarantined when the pool is read
                place = _Place(name, where, str(values["split"]), str(values["scene"]))
                first = scenes.setdefault(place.scene, place)
                if first.leaks_to(place):
                    raise UserInputError(
                        f"scene {place.scene!r} is in {first} and in {place};"
                        " keep each scene in one split"
                    )
                for image in values.get("images") or ():
                    try:
                        digest = image_digest(image_bytes(image, root))
                    except RowError:
                        continue
                    first = pictures.setdefault(digest, place)
                    if first.leaks_to(place):
                        raise UserInputError(
                            f"one image is in scene {first.scene!r} of {first} and in scene"
                            f" {place.scene!r} of {place}; keep each image in one split"
                        )


def _empty(folder: Path, quarantine: Quarantine, beyond: int = 0) -> str:
    """The sentence about a pool without a usable sample."""
    why = [f"{count} x {code}" for code, count in quarantine.counts.items()]
    why += [f"{beyond} beyond the horizon"] if beyond else []
    detail = f" ({', '.join(why)}; first: {quarantine.rows[0]})" if quarantine.rows else ""
    if not detail:
        detail = f" ({why[0]})" if why else ""
    return f"pool {folder} holds no usable sample{detail}; check the recipe's data section"


def _read_rows(
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


def _entry(values: dict[str, Any], shard: int, row: int) -> Entry:
    """Check one row, all but its images. Raises RowError."""
    for name in OPTIONAL:
        if values.get(name, "") is None:
            del values[name]
    for name in ("images", "times_s", "turns", "answer"):
        if values[name] is None:
            raise RowError("schema", f"{name} is null")
    _finite(values["times_s"], "times_s")
    _finite(values.get("chance"), "chance")
    try:
        sample = sample_from_row({**values, "images": [{"bytes": b"-"} for _ in values["images"]]})
    except ValidationError as error:
        raise RowError("schema" if error.title == "Sample" else "answer", _said(error)) from None
    _finite(sample.answer.model_dump(), "answer")
    if sample.media_kind == "clip" and (len(sample.images) < 2 or sample.span_s < MIN_STEP_S):
        raise RowError("clip_step", f"a clip of {sample.span_s:g} s is shorter than a frame step")
    answer_fits(sample)
    return Entry(
        id=sample.id,
        family=sample.family,
        dimension=sample.dimension,
        span_s=sample.span_s,
        scene=sample.scene,
        split=sample.split,
        source=sample.source,
        question=sample.question,
        answer_kind=sample.answer.kind,
        clip=sample.media_kind == "clip",
        shard=shard,
        row=row,
    )


def answer_fits(sample: Sample) -> None:
    """What the records can't see alone: the answer against media and reward. Raises RowError."""
    answer = sample.answer
    try:
        scorer_of(sample)
    except UserInputError:
        raise RowError(
            "answer", f"family {sample.family} has no reward for answers of kind {answer.kind}"
        ) from None
    if isinstance(answer, IntervalAnswer):
        step = sample.span_s / max(1, len(sample.times_s) - 1)
        if answer.end > sample.times_s[-1] + step or answer.start < sample.times_s[0] - step:
            raise RowError(
                "answer",
                f"interval {answer.start:g} to {answer.end:g} s leaves its clip of"
                f" {sample.times_s[0]:g} to {sample.times_s[-1]:g} s",
            )
    if isinstance(answer, PointsAnswer):
        _mask_fits(answer.mask)


def _mask_fits(mask: Mask) -> None:
    """A mask has exactly its frame's pixels and at least one inside. Raises RowError."""
    height, width = mask.size
    if height < 1 or width < 1 or height * width > MAX_MASK_PIXELS:
        raise RowError("answer", f"a mask of {height} x {width} pixels can't be used")
    runs: list[int] = []
    value = shift = 0
    for char in mask.counts:
        bits = ord(char) - 48
        if not 0 <= bits < 64 or shift > 30:
            raise RowError("answer", "a mask's counts are not COCO run lengths")
        value |= (bits & 0x1F) << shift
        shift += 5
        if not bits & 0x20:
            value |= (-1 << shift) if bits & 0x10 else 0
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    if shift or any(run < 0 for run in runs) or sum(runs) != height * width:
        raise RowError(
            "answer", f"a mask's counts do not cover its frame of {height} x {width} pixels"
        )
    if not sum(runs[1::2]):
        raise RowError("answer", "a mask is empty")


def _finite(value: object, name: str) -> None:
    """Raise RowError if a number in `value` is NaN or infinite."""
    if isinstance(value, float) and not math.isfinite(value):
        raise RowError("not_finite", f"{name} holds {value}")
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for part in value:
            _finite(part, name)


def _said(error: ValidationError) -> str:
    """The first complaint of pydantic, on one line."""
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    message = " ".join(str(first["msg"]).split()).removeprefix("Value error, ")
    return f"{place}: {message}" if place else message
