"""Rows of a pool checked by columns: finds those in which plainly nothing is wrong.

What is in doubt is looked at one by one by `pelican.data.entry.entry_of`, which alone says what is
wrong with a row. So a rule that is missing here would let bad rows pass: a test holds both against
each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pelican.data.answer_columns import KIND, Codes, Floats, answers_of
from pelican.data.entries import DIMENSION, ENTRIES, FAMILY, SPLIT
from pelican.data.entry import KINDS, MIN_STEP_S
from pelican.data.rows import OPTIONAL
from pelican.data.tables import SAMPLES
from pelican.rewards.score import FAMILIES

Flags = npt.NDArray[np.bool_]

_TEXTS = ("id", "media_kind", "family", "dimension", "answer", "source", "scene", "split")
MEDIA, ROLES = ("image", "clip"), ("system", "user", "assistant")
_SCORED = np.array([[kind in FAMILIES[family] for kind in KINDS] for family in FAMILY])
_SIGNS = ("<|", "_pad>", "INST]", "SYS>>")  # one is wherever RESERVED finds something
_FEW = 64  # rows; among fewer no part without a fault is looked for


class _Unusual(Exception):
    """A column of another type than a pool's usually has."""


def plain_rows(batch: pa.RecordBatch, start: int, apart: pa.Array) -> tuple[Flags, pa.RecordBatch]:
    """Which rows are plainly good, and those as columns of ENTRIES.

    `start` is the number of the batch's first row. Rows with an id in `apart` are never plain.
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
    good &= times.good & (times.count > 0) & (_lengths(batch.column("images")) == times.count)
    good &= ~clip | ((times.count >= 2) & (span >= MIN_STEP_S))
    asked, question = _questions(batch.column("turns"))
    answers = answers_of(text["answer"])
    good &= asked & (answers.kind >= 0) & _SCORED[family, answers.kind]
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
