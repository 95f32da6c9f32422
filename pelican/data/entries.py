"""The usable rows of a pool, and the rules that a row must pass to be one.

The rules stand here twice. `entry_of` checks one row and says what is wrong with it. `plain_rows`
checks many rows by columns, which is far faster, and says only which of them are good beyond doubt;
the others go to `entry_of`. The usable rows are kept as columns (`Entries`).
"""

from __future__ import annotations

import json
import math
import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, groupby, repeat
from typing import Any, get_args, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ValidationError

from pelican.data.tables import OPTIONAL, SAMPLES, RowError, answer_from_json, sample_from_row
from pelican.errors import UserInputError
from pelican.records import (
    Answer,
    Dimension,
    Family,
    IntervalAnswer,
    Mask,
    PointsAnswer,
    Sample,
    Split,
)
from pelican.rewards.families import FAMILIES
from pelican.rewards.score import scorer_of

# The rules for one row, all but its images: `entry_of` applies them and says what is wrong.

MIN_STEP_S = 1 / 240  # no camera of a robot is faster
# Kinds of answers that lie in a frame or a clip.
IN_MEDIA = frozenset({"points", "box", "interval"})
RESERVED = re.compile(r"<\|[\w ]{1,40}\|>|<(?:image|video)_pad>|\[/?INST\]|<</?SYS>>")


def answer_types() -> tuple[type[BaseModel], ...]:
    """The kinds of `Answer`."""
    types: tuple[type[BaseModel], ...] = get_args(get_args(Answer)[0])
    return types


KINDS: tuple[str, ...] = tuple(t.model_fields["kind"].default for t in answer_types())


@dataclass(frozen=True, slots=True)
class Entry:
    """One usable row of a pool without its images; `shard` and `row` say where they are."""

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


def entry_of(values: dict[str, Any], shard: int, row: int) -> Entry:
    """Check one row, all but its images. Raises RowError."""
    for name in OPTIONAL:
        if values.get(name, "") is None:
            del values[name]
    for name in ("images", "times_s", "turns", "answer"):
        if values[name] is None:
            raise RowError("schema", f"{name} is null")
    finite(values["times_s"], "times_s")
    finite(values.get("chance"), "chance")
    try:
        sample = sample_from_row({**values, "images": [{"bytes": b"-"} for _ in values["images"]]})
    except ValidationError as error:
        raise RowError(
            "schema" if error.title == "Sample" else "answer", _place_and_message(error)
        ) from None
    finite(sample.answer, "answer")
    if sample.media_kind == "clip" and (len(sample.images) < 2 or sample.span_s < MIN_STEP_S):
        raise RowError(
            "clip_step",
            f"a clip of {len(sample.images)} images over {sample.span_s:g} s is shorter than a frame"
            " step; it needs two images or more, 1/240 s apart",
        )
    for turn in sample.turns:
        refuse(RESERVED, turn.text)
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


def refuse(markup: re.Pattern[str], text: str) -> None:
    """Raise RowError if a turn's `text` holds such `markup`."""
    if found := markup.search(text):
        raise RowError("markup", f"a turn holds {found[0]!r}, which would break a prompt")


def answer_fits(sample: Sample) -> None:
    """Raise RowError if no reward can score the answer, or if it lies outside its clip or frame."""
    answer = sample.answer
    if not sample.images and answer.kind in IN_MEDIA:
        raise RowError(
            "answer", f"an answer of kind {answer.kind} lies in a medium; the row has none"
        )
    try:
        scorer_of(sample)
    except UserInputError:
        raise RowError(
            "answer",
            f"family {sample.family} has no reward for answers of kind {answer.kind}; the table of both"
            " is in pelican/rewards/families.py",
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
        mask_fits(answer.mask)


def mask_fits(mask: Mask) -> None:
    """Raise RowError if a mask has not exactly its frame's pixels, or none of them inside."""
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


def finite(value: object, name: str) -> None:
    """Raise RowError if a number in `value` is NaN or infinite."""
    if isinstance(value, float) and not math.isfinite(value):
        raise RowError("not_finite", f"{name} holds {value}")
    if isinstance(value, BaseModel):
        value = vars(value)
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for part in value:
            finite(part, name)


def first_message(error: ValidationError) -> str:
    """The first message of pydantic, on one line and without its prefix."""
    message = str(error.errors(include_url=False, include_input=False)[0]["msg"])
    return " ".join(message.split()).removeprefix("Value error, ")


def _place_and_message(error: ValidationError) -> str:
    place = ".".join(str(part) for part in error.errors(include_input=False)[0]["loc"])
    return f"{place}: {first_message(error)}" if place else first_message(error)


# The usable rows of a pool as columns: 1.3 million take some 150 MB, as objects five times that.

FAMILY, DIMENSION, SPLIT = tuple(Family), tuple(Dimension), tuple(Split)
# Names of a closed set are kept by their number in it.
_CODED: dict[str, tuple[Any, ...]] = {
    "family": FAMILY,
    "dimension": DIMENSION,
    "split": SPLIT,
    "answer_kind": KINDS,
}
ENTRIES = pa.schema(
    [
        ("id", pa.string()),
        ("family", pa.int8()),
        ("dimension", pa.int8()),
        ("span_s", pa.float64()),
        ("scene", pa.string()),
        ("split", pa.int8()),
        ("source", pa.string()),
        ("question", pa.string()),
        ("answer_kind", pa.int8()),
        ("clip", pa.bool_()),
        ("row", pa.int32()),
    ]
)
_SLICE = 4096  # rows made into objects at once


class Entries(Sequence[Entry]):
    """Rows in the order of the pool; an `Entry` is made whenever one is asked for.

    `blocks`: the number of a shard, and rows of it as columns of ENTRIES.
    """

    def __init__(self, blocks: Iterable[tuple[int, pa.RecordBatch]]) -> None:
        self._blocks = [(shard, block) for shard, block in blocks if block.num_rows]
        self._ends = list(accumulate(block.num_rows for _, block in self._blocks))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __iter__(self) -> Iterator[Entry]:
        return self._between(0, len(self))

    @overload
    def __getitem__(self, number: int) -> Entry: ...
    @overload
    def __getitem__(self, number: slice) -> tuple[Entry, ...]: ...
    def __getitem__(self, number: int | slice) -> Entry | tuple[Entry, ...]:
        if isinstance(number, slice):
            numbers = range(len(self))[number]
            if numbers.step == 1:
                return tuple(self._between(numbers.start, numbers.stop))
            return tuple(self[i] for i in numbers)
        at = range(len(self))[number]
        return next(self._between(at, at + 1))

    @classmethod
    def of(cls, entries: Sequence[Entry]) -> Entries:
        """The same entries as columns; a list of single entries loses their shards (all become 0)."""
        return entries if isinstance(entries, cls) else cls([(0, block_of(entries))])

    def column(self, name: str) -> npt.NDArray[Any]:
        """One column of ENTRIES, of all rows: text as objects, names of a closed set as numbers."""
        parts = [b.column(name).to_numpy(zero_copy_only=False) for _, b in self._blocks]
        return np.concatenate(parts) if parts else np.empty(0, object)

    def rows(self, numbers: npt.NDArray[np.int64]) -> list[Entry]:
        """The entries of these numbers, which rise."""
        found: list[Entry] = []
        for end, (shard, block) in zip(self._ends, self._blocks, strict=True):
            begin = end - block.num_rows
            mine = numbers[slice(*np.searchsorted(numbers, (begin, end)))] - begin
            for at in range(0, len(mine), _SLICE):
                found += _objects(shard, block.take(pa.array(mine[at : at + _SLICE])))
        return found

    def _between(self, start: int, stop: int) -> Iterator[Entry]:
        for number in range(bisect_right(self._ends, start), len(self._blocks)):
            shard, block = self._blocks[number]
            begin = self._ends[number] - block.num_rows
            if begin >= stop:
                return
            last = min(stop - begin, block.num_rows)
            for at in range(max(start - begin, 0), last, _SLICE):
                yield from _objects(shard, block.slice(at, min(_SLICE, last - at)))


def rows_of(entries: Sequence[Entry], which: npt.NDArray[np.bool_]) -> list[Entry]:
    """The entries at which `which` is true."""
    numbers = np.flatnonzero(which)
    if isinstance(entries, Entries):
        return entries.rows(numbers)
    return [entries[i] for i in numbers.tolist()]


def block_of(entries: Sequence[Entry]) -> pa.RecordBatch:
    """Entries of one shard as columns."""
    columns: dict[str, list[Any]] = {}
    for name in ENTRIES.names:
        values = [getattr(entry, name) for entry in entries]
        columns[name] = [_CODED[name].index(v) for v in values] if name in _CODED else values
    return pa.RecordBatch.from_pydict(columns, schema=ENTRIES)


def _objects(shard: int, block: pa.RecordBatch) -> Iterator[Entry]:
    columns: dict[str, list[Any]] = {}
    for name in ENTRIES.names:
        values = block.column(name).to_numpy(zero_copy_only=False).tolist()
        columns[name] = [_CODED[name][v] for v in values] if name in _CODED else values
    rows = columns.pop("row")
    return map(Entry, *columns.values(), repeat(shard), rows)


# The same rules by columns: `plain_rows` finds the rows in which nothing is wrong.
#
# Every other row is read by `entry_of`, which alone says what is wrong with it. A rule that is
# missing here would let bad rows pass, so a test compares both on the same rows.

Flags = npt.NDArray[np.bool_]

_TEXTS = ("id", "media_kind", "family", "dimension", "answer", "source", "scene", "split")
MEDIA, ROLES = ("image", "clip", "text"), ("system", "user", "assistant")
_SCORED = np.array([[kind in FAMILIES[family] for kind in KINDS] for family in FAMILY])
_IN_MEDIA = np.array([kind in IN_MEDIA for kind in KINDS])
_SIGNS = ("<|", "_pad>", "INST]", "SYS>>")  # one is wherever RESERVED finds something
_FEW = 64  # rows; among fewer no part without a fault is looked for


class _Unusual(Exception):
    """A column of another type than a pool's usually has."""


def plain_rows(batch: pa.RecordBatch, start: int, apart: pa.Array) -> tuple[Flags, pa.RecordBatch]:
    """Find the rows in which nothing is wrong.

    Args:
        batch: Rows of one shard, their images without bytes.
        start: The number of the batch's first row in its shard.
        apart: Ids of rows that must be read one by one, such as those that a person corrected.

    Returns:
        A flag for each row, and the flagged rows as columns of ENTRIES.
    """
    try:
        batch.validate(full=True)  # that text is UTF-8
    except pa.ArrowInvalid:
        if batch.num_rows <= _FEW:
            return np.zeros(batch.num_rows, bool), _none()
        half = batch.num_rows // 2
        parts = [
            plain_rows(batch.slice(0, half), start, apart),
            plain_rows(batch.slice(half), start + half, apart),
        ]
        table = pa.Table.from_batches([block for _, block in parts], ENTRIES).combine_chunks()
        blocks = table.to_batches()
        flags = np.concatenate([flags for flags, _ in parts])
        return flags, blocks[0] if blocks else _none()
    try:
        return _checked(batch, start, apart)
    except _Unusual:
        return np.zeros(batch.num_rows, bool), _none()


def _none() -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist([], schema=ENTRIES)


def _checked(batch: pa.RecordBatch, start: int, apart: pa.Array) -> tuple[Flags, pa.RecordBatch]:
    text = {name: _text(batch.column(name)) for name in _TEXTS}
    for name in OPTIONAL & set(batch.schema.names):
        if pa.types.is_string(SAMPLES.field(name).type):
            _text(batch.column(name))  # any text will do, or none
    family, dimension, split, media = (
        _codes(text[name], values)
        for name, values in (
            ("family", FAMILY),
            ("dimension", DIMENSION),
            ("split", SPLIT),
            ("media_kind", MEDIA),
        )
    )
    good = (family >= 0) & (dimension >= 0) & (split >= 0) & (media >= 0)
    for name in ("id", "source", "scene"):
        good &= _flags(pc.greater(pc.binary_length(text[name]), 0))
    good &= ~_flags(pc.is_in(text["id"], value_set=apart))
    if "chance" in batch.schema.names:
        good &= _is_share(batch.column("chance"))
    times = _times(batch.column("times_s"))
    clip = media == MEDIA.index("clip")
    span = times.last - times.first
    text_alone = media == MEDIA.index("text")
    good &= times.good & (_lengths(batch.column("images")) == times.count)
    good &= (times.count == 0) == text_alone
    for name in ("images", "times_s"):  # a null is no empty list
        good &= _flags(batch.column(name).is_valid())
    good &= ~clip | ((times.count >= 2) & (span >= MIN_STEP_S))
    asked, question = _questions(batch.column("turns"))
    answers = answers_of(text["answer"])
    good &= asked & (answers.kind >= 0) & _SCORED[family, answers.kind]
    good &= ~(text_alone & _IN_MEDIA[answers.kind])
    step = span / np.maximum(1, times.count - 1)
    inside = (answers.end <= times.last + step) & (answers.start >= times.first - step)
    good &= (answers.kind != KIND["interval"]) | inside
    rows = np.arange(start, start + batch.num_rows, dtype=np.int32)
    columns = {
        **text,
        "family": family,
        "dimension": dimension,
        "span_s": span,
        "split": split,
        "question": question,
        "answer_kind": answers.kind,
        "clip": clip,
        "row": rows,
    }
    block = pa.RecordBatch.from_arrays(
        [_array(columns[field.name], field.type) for field in ENTRIES], schema=ENTRIES
    )
    return good, block.filter(pa.array(good))


def _array(values: pa.Array | npt.NDArray[Any], kind: pa.DataType) -> pa.Array:
    return values if isinstance(values, pa.Array) else pa.array(values, kind)


def _text(column: pa.Array) -> pa.Array:
    kind = column.type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if not _is_text(kind):
        raise _Unusual
    return column.cast(pa.string())


def _is_text(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )


def _flags(column: pa.Array) -> Flags:
    """Booleans; null is false."""
    flags: Flags = pc.fill_null(column, False).to_numpy(zero_copy_only=False)
    return flags


def _codes(column: pa.Array, values: Sequence[str]) -> Codes:
    """The place of each text in `values`; -1 of another."""
    found = pc.index_in(column, value_set=pa.array([str(v) for v in values]))
    codes: Codes = pc.fill_null(found, -1).to_numpy(zero_copy_only=False).astype(np.int8)
    return codes


def _numbers(column: pa.Array) -> Floats:
    """Floats; null is NaN."""
    if not (pa.types.is_float64(column.type) or pa.types.is_float32(column.type)):
        raise _Unusual
    numbers: Floats = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
    return numbers


def _lengths(column: pa.Array) -> npt.NDArray[np.int64]:
    """Of lists; that of null is 0."""
    if not (pa.types.is_list(column.type) or pa.types.is_large_list(column.type)):
        raise _Unusual
    lengths = pc.fill_null(pc.list_value_length(column), 0)
    found: npt.NDArray[np.int64] = lengths.to_numpy(zero_copy_only=False).astype(np.int64)
    return found


def _is_share(column: pa.Array) -> Flags:
    """In [0, 1], or null."""
    numbers = _numbers(column)
    return (numbers >= 0) & (numbers <= 1) | _flags(column.is_null())


@dataclass(frozen=True)
class _Times:
    """`good`: finite and increasing. `first` and `last` are 0 where there is none."""

    good: Flags
    count: npt.NDArray[np.int64]
    first: Floats
    last: Floats


def _times(column: pa.Array) -> _Times:
    count = _lengths(column)
    values = _numbers(pc.list_flatten(column))
    rows = np.repeat(np.arange(len(count)), count)
    good = np.ones(len(count), bool)
    good[rows[~np.isfinite(values)]] = False
    falls = (values[1:] <= values[:-1]) & (rows[1:] == rows[:-1])
    good[rows[1:][falls]] = False
    ends = np.cumsum(count)
    first, last = np.zeros(len(count)), np.zeros(len(count))
    some = good & (count > 0)
    first[some], last[some] = values[(ends - count)[some]], values[ends[some] - 1]
    return _Times(good, count, first, last)


def _questions(column: pa.Array) -> tuple[Flags, pa.Array]:
    """Whether a row's turns are whole and the last is the user's; the text of that one."""
    count = _lengths(column)
    kind = column.type.value_type
    if not pa.types.is_struct(kind) or {field.name for field in kind} != {"role", "text"}:
        raise _Unusual
    turns = pc.list_flatten(column)
    role, text = (_text(turns.field(kind.get_field_index(name))) for name in ("role", "text"))
    codes = _codes(role, ROLES)
    whole = (codes >= 0) & _flags(turns.is_valid()) & _flags(text.is_valid())
    whole &= ~_may_be_reserved(text)
    good = count > 0
    good[np.repeat(np.arange(len(count)), count)[~whole]] = False
    last = np.cumsum(count) - 1
    good[good] = codes[last[good]] == ROLES.index("user")
    return good, text.take(pa.array(last, mask=~good))


def _may_be_reserved(text: pa.Array) -> Flags:
    """Which texts hold a sign of RESERVED. Mostly none does, as the bytes of all together show."""
    together = bytes(text.buffers()[2] or b"")
    flags = np.zeros(len(text), bool)
    for sign in _SIGNS:
        if sign.encode() in together:
            flags |= _flags(pc.match_substring(text, sign))
    return flags


# A column of answers at once: the kind of each, where it keeps the rules of `entry_of`.

Codes = npt.NDArray[np.int8]
Floats = npt.NDArray[np.float64]

KIND = {kind: number for number, kind in enumerate(KINDS)}
# The others have no number that could be NaN or infinite.
_FLOATS = tuple(t for t in answer_types() if '"number"' in json.dumps(t.model_json_schema()))
_REMEMBERED, _SHORT = 1 << 16, 64  # texts of answers, of at most so many characters


@dataclass(frozen=True)
class Answers:
    """A column of answers. `kind`: the place in KINDS, -1 where something may be wrong.

    `start` and `end` (seconds) are those of intervals, 0 for other kinds.
    """

    kind: Codes
    start: Floats
    end: Floats


def answers_of(column: pa.Array) -> Answers:
    """The kind of each answer of a column; a null is in doubt (-1)."""
    coded = column.dictionary_encode()
    facts = [
        _remembered(text) if len(text) <= _SHORT else _facts(text)
        for text in coded.dictionary.to_numpy(zero_copy_only=False)
    ]
    table = np.array([*(fact[:3] for fact in facts), _DOUBT[:3]], dtype=float)
    masked = [(i, fact[3]) for i, fact in enumerate(facts) if fact[3] is not None]
    whole = whole_masks([mask for _, mask in masked])
    table[[i for (i, _), good in zip(masked, whole, strict=True) if not good], 0] = -1
    # The last line of the table is that of null, at -1.
    found = table[pc.fill_null(coded.indices, -1).to_numpy(zero_copy_only=False)]
    return Answers(found[:, 0].astype(np.int8), found[:, 1], found[:, 2])


_Fact = tuple[float, float, float, Mask | None]  # kind, start and end, and the mask of points
_DOUBT: _Fact = (-1.0, 0.0, 0.0, None)


def _facts(text: str) -> _Fact:
    try:
        answer = answer_from_json(text)
        if isinstance(answer, _FLOATS):
            finite(answer, "answer")
    except (ValidationError, RowError):
        return _DOUBT
    kind = KIND[answer.kind]
    if isinstance(answer, IntervalAnswer):
        return kind, answer.start, answer.end, None
    return kind, 0.0, 0.0, answer.mask if isinstance(answer, PointsAnswer) else None


_remembered = lru_cache(_REMEMBERED)(_facts)


# Many masks at once: which of them keep the rules of `mask_fits`, by their COCO run lengths.

MAX_MASK_PIXELS = 1 << 26
_DIGITS = 7  # of a run, five bits each; no frame has a longer one
_AT_ONCE = 1 << 19  # digits; an array of them takes 4 MB
Integers = npt.NDArray[np.int64]


def whole_masks(masks: Sequence[Mask]) -> Flags:
    """Which masks cover their frames and are not empty; False means that `mask_fits` must decide."""
    good = np.array([_readable(mask) for mask in masks], bool)
    ends = accumulate(len(mask.counts) for mask in masks)
    part_of = [end // _AT_ONCE for end in ends]
    for _, part in groupby(np.flatnonzero(good).tolist(), lambda i: part_of[i]):
        numbers = list(part)
        good[numbers] = _whole([masks[i] for i in numbers])
    return good


def _readable(mask: Mask) -> bool:
    """A frame of a usable size, and digits whose last one ends a run."""
    height, width = mask.size
    text = mask.counts
    fits = height >= 1 and width >= 1 and height * width <= MAX_MASK_PIXELS
    return fits and text != "" and text.isascii() and not (ord(text[-1]) - 48) & 0x20


def _whole(masks: Sequence[Mask]) -> Flags:
    text = "".join(mask.counts for mask in masks).encode("ascii")
    digits = np.frombuffer(text, np.uint8).astype(np.int64) - 48
    last = np.flatnonzero(digits & 0x20 == 0)  # the other digits are followed by one
    first = np.concatenate([[0], last[:-1] + 1])
    length = last - first + 1
    place = np.arange(len(digits)) - np.repeat(first, length)
    values = np.add.reduceat((digits & 0x1F) << 5 * np.minimum(place, _DIGITS), first)
    values -= np.where(digits[last] & 0x10, 1 << 5 * np.minimum(length, _DIGITS), 0)
    ends = np.cumsum([len(mask.counts) for mask in masks])
    owners = np.searchsorted(ends, last, side="right")
    number = np.arange(len(last)) - _starts(owners, len(masks))[owners]  # of a run in its mask
    odd = number % 2 == 1
    # From the fourth on a run is kept as the difference to the last but one.
    runs = values.copy()
    for chain in (odd, ~odd & (number > 0)):
        runs[chain] = _sums(values[chain], owners[chain], len(masks))
    wrong = (runs < 0) | (length > _DIGITS)
    wrong |= np.logical_or.reduceat((digits < 0) | (digits > 63), first)
    pixels = np.array([mask.size[0] * mask.size[1] for mask in masks])
    covered, inside, faults = (
        np.bincount(owners, weights, minlength=len(masks))
        for weights in (runs, np.where(odd, runs, 0), wrong)
    )
    whole: Flags = (faults == 0) & (covered == pixels) & (inside > 0)
    return whole


def _starts(owners: Integers, count: int) -> Integers:
    """Where each owner's part begins; equal owners stand together."""
    return np.searchsorted(owners, np.arange(count))


def _sums(values: Integers, owners: Integers, count: int) -> Integers:
    """Running sums that begin anew with each owner."""
    before = np.concatenate([[0], np.cumsum(values)])
    sums: Integers = before[1:] - before[_starts(owners, count)][owners]
    return sums
