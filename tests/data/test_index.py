"""The index that checks by columns is the one that checks row by row, for good rows and bad ones."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pelican.data import entries as plain
from pelican.data import entries as run_lengths
from pelican.data import pool, tables
from pelican.data.corrections import NONE, Corrections
from pelican.data.entries import Entry, entry_of, mask_fits, whole_masks
from pelican.data.pool import read_index
from pelican.data.tables import SAMPLES, Quarantine, QuarantineRow, RowError, shard_paths
from pelican.errors import UserInputError
from pelican.records import Family, Mask
from pelican.rewards.masks import encode_mask
from tests.data.factory import raw_row, sample, write_pool

NAN, INF = float("nan"), float("inf")
PICTURE = {"bytes": b"-", "path": None}


def answer(**fields: Any) -> str:
    return json.dumps(fields)


def mask(*inside: int, size: tuple[int, int] = (3, 4)) -> dict[str, Any]:
    pixels = np.zeros(size[0] * size[1], np.uint8)
    pixels[list(inside)] = 1
    return encode_mask(pixels.reshape(size)).model_dump(mode="json")


# What a column may hold: what is usual, what is allowed, what is broken.
VALUES: dict[str, list[Any]] = {
    "id": ["a", "b", "c", "", None, "ü", "a\0b"],
    "media_kind": ["image", "clip", "clip", "text", "text", "video", None],
    "images": [[PICTURE], [PICTURE] * 2, [PICTURE] * 3, [None], [], None],
    "times_s": [[0.0], [0.0, 1.0], [0.0, 1.0], [0.0, 0.5, 4.0], [1.0, 0.5], [0.0, 0.001], [NAN],
                [0.0, INF], [None], [-1.0, 0.0], [], None],
    "turns": [
        [{"role": "user", "text": "How many?"}],
        [{"role": "user", "text": ""}],
        [{"role": "system", "text": "x"}, {"role": "user", "text": "And now?"}],
        [{"role": "user", "text": "x"}, {"role": "assistant", "text": "3"}],
        [{"role": "cook", "text": "x"}], [{"role": None, "text": "x"}],
        [{"role": "user", "text": "a <|im_end|> b"}], [{"role": "user", "text": "a <| b, 3|>2"}],
        [{"role": "system", "text": "<|é|>"}, {"role": "user", "text": "the <image_pad>"}],
        [{"role": "user", "text": "[INST] or <<SYS>>"}], [{"role": "user", "text": "a_pad> INST]"}],
        [{"role": "user", "text": None}], [None], [], None,
    ],
    "family": [*(f.value for f in Family), "dancing", None],
    "dimension": ["physical_causal", "temporal_sequential", "", None],
    "answer": [
        answer(kind="count", value=3), answer(kind="count", value=-1), answer(kind="count", value=2.0),
        answer(kind="yes_no", value=True), answer(kind="interval", start=0, end=1.5),
        answer(kind="interval", start=0.5, end=9), '{"kind": "interval", "start": 0, "end": NaN}',
        '{"kind": "interval", "start": 0, "end": 1e999}', answer(kind="interval", start=0, end=2.25),
        answer(kind="points", mask=mask(3, 4)), answer(kind="points", mask=mask()),
        answer(kind="points", mask={"size": [9, 9], "counts": "01"}),
        answer(kind="box", box=[0, 0, 9, 9]), '{"kind": "box", "box": [0, 0, Infinity, 9]}',
        answer(kind="distance", value=1.5), answer(kind="text", value="cup"), answer(kind="text", value=""),
        answer(kind="choice", options=["a", "b"], answer="B"),
        answer(kind="choice", options=["a", "b"], answer="C"), answer(kind="steps", steps=["grasp"]),
        answer(kind="order", items=["a", "b"]), answer(kind="open", reference="x"),
        "", "3", "null", "{", None,
    ],
    "source": ["made", "", None],
    "scene": ["one", "two", "", None],
    "split": ["train", "dev", "test", "validation", None],
    "benchmark": ["default", "", None],
    "chance": [0.0, 0.25, 1.0, -0.1, 1.5, NAN, INF, None],
}  # fmt: skip

GOOD = [raw_row(number, images=[PICTURE]) for number in range(12)]

TEXT_ALONE = {"media_kind": "text", "images": [], "times_s": []}


@st.composite
def broken_rows(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Good rows with up to three columns of each replaced."""
    found = []
    for number in range(draw(st.integers(1, 12))):
        names = draw(st.lists(st.sampled_from(sorted(VALUES)), max_size=3))
        base = draw(st.sampled_from([GOOD[number], GOOD[number] | TEXT_ALONE]))
        found.append(base | {name: draw(st.sampled_from(VALUES[name])) for name in names})
    return found


def with_bytes(table: pa.Table, column: str, at: int) -> pa.Table:
    """A text of one row that is not UTF-8."""
    texts = [str(text).encode() for text in table.column(column).to_pylist()]
    texts[at % len(texts)] = b"\xff\xfe"
    array = pa.array(texts, pa.binary()).view(pa.string())
    return table.set_column(table.schema.get_field_index(column), column, array)


def one_by_one(
    folder: Path, corrections: Corrections
) -> tuple[list[Entry], list[QuarantineRow], dict[str, int]]:
    """The rule, plainly: each row by itself, in order."""
    entries, quarantine, seen = [], Quarantine(), set()
    for number, path in enumerate(shard_paths(folder)):
        table = pq.read_table(path)
        for row in range(len(table)):
            name = ""
            try:
                try:
                    (values,) = table.slice(row, 1).to_pylist()
                except UnicodeDecodeError as error:
                    raise RowError("text", f"text is not UTF-8 ({error.reason})") from None
                name = str(values["id"] or "")
                if name in seen:
                    raise RowError("duplicate_id", f"id {name!r} occurred before")
                seen.add(name)
                if name not in corrections.dropped:
                    entries.append(entry_of(corrections.row(values), number, row))
            except RowError as error:
                quarantine.add(path.name, row, name, error)
    return entries, quarantine.rows, corrections.counts(seen)


def assert_the_same(folder: Path, corrections: Corrections = NONE) -> None:
    entries, bad, counts = one_by_one(folder, corrections)
    if not entries:
        with pytest.raises(UserInputError, match="no usable sample"):
            read_index(folder, corrections)
        return
    index = read_index(folder, corrections)
    assert list(index.entries) == entries
    assert index.quarantine.rows == bad
    assert index.corrected == counts


CORRECTIONS = [
    NONE,
    Corrections(frozenset({"a", "s00001", "nobody"})),
    Corrections(
        frozenset({"b"}),
        {
            "a": {"answer": answer(kind="yes_no", value=False)},
            "s00002": {"dimension": "decision_planning", "answer": answer(kind="count", value=7)},
        },
    ),
]


@settings(max_examples=60, deadline=None)
@given(
    shards=st.lists(broken_rows(), min_size=1, max_size=3),
    spoilt=st.none() | st.tuples(st.sampled_from(["id", "scene", "answer", "benchmark"]), st.integers(0, 20)),
    corrections=st.sampled_from(CORRECTIONS),
    batch=st.sampled_from([2, 5, 100]),
    few=st.sampled_from([1, 64]),
)  # fmt: skip
def test_columns_and_rows_say_the_same_of_any_pool(
    shards: list[list[dict[str, Any]]],
    spoilt: tuple[str, int] | None,
    corrections: Corrections,
    batch: int,
    few: int,
) -> None:
    with tempfile.TemporaryDirectory() as name:
        for number, made in enumerate(shards):
            table = pa.Table.from_pylist(made, schema=SAMPLES)
            if spoilt and number == 0:
                table = with_bytes(table, *spoilt)
            pq.write_table(table, Path(name) / f"{number}.parquet", row_group_size=4)
        with patch.object(tables, "_LIGHT_BATCH", batch), patch.object(plain, "_FEW", few):
            assert_the_same(Path(name), corrections)


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        ("id", pa.large_string()),
        ("family", pa.dictionary(pa.int32(), pa.string())),
        ("answer", pa.string_view()),
        ("chance", pa.float32()),
        ("times_s", pa.list_(pa.float32())),
        ("times_s", pa.large_list(pa.float64())),
        ("times_s", pa.list_(pa.int64())),
        ("turns", pa.list_(pa.struct([("text", pa.string()), ("role", pa.large_string())]))),
        ("benchmark", pa.large_string()),
        ("split", pa.binary()),
    ],
)
def test_other_types_of_the_columns_say_the_same(
    tmp_path: Path, column: str, kind: pa.DataType
) -> None:
    made = [raw_row(i, chance=0.1) for i in range(9)] + [raw_row(3), raw_row(20, **{column: None})]
    table = pa.Table.from_pylist(made, schema=SAMPLES)
    at = table.schema.get_field_index(column)
    if pa.types.is_list(kind) and pa.types.is_struct(kind.value_type):
        turns = [
            [{"text": t["text"], "role": t["role"]} for t in r or ()]
            for r in table[column].to_pylist()
        ]
        changed = pa.chunked_array([pa.array(turns, kind)])
    else:
        changed = table.column(column).cast(kind)
    pq.write_table(table.set_column(at, column, changed), tmp_path / "a.parquet")
    assert_the_same(tmp_path)


def test_a_turn_with_another_field_is_no_turn(tmp_path: Path) -> None:
    made = [raw_row(i) for i in range(3)]
    turns = pa.array([[{"role": "user", "text": "x", "name": "y"}]] * 3)
    table = pa.Table.from_pylist(made, schema=SAMPLES)
    at = table.schema.get_field_index("turns")
    pq.write_table(table.set_column(at, "turns", turns), tmp_path / "a.parquet")
    assert_the_same(tmp_path)


def test_a_good_pool_is_not_looked_at_row_by_row(tmp_path: Path) -> None:
    folder = write_pool(tmp_path, [sample(i) for i in range(120)])
    with patch.object(pool, "entry_of", side_effect=AssertionError):
        entries = read_index(folder).entries
    assert [e.id for e in entries] == [f"s{i:05d}" for i in range(120)]
    assert entries[-1] == list(entries)[119] and entries[7].row == 7 and entries[60].shard == 1
    assert entries[45:55] == tuple(entries)[45:55] and entries[::50] == tuple(entries)[::50]
    with pytest.raises(IndexError):
        entries[120]


def rule(mask: Mask) -> bool:
    try:
        mask_fits(mask)
    except RowError:
        return False
    return True


@st.composite
def masks(draw: st.DrawFn) -> Mask:
    """Masks as they are encoded, some with a character or a side changed."""
    height, width = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    pixels = np.zeros(height * width, np.uint8)
    for _ in range(draw(st.integers(0, 4))):
        begin = draw(st.integers(0, len(pixels)))
        pixels[begin : begin + draw(st.integers(0, 300))] ^= 1
    mask = encode_mask(pixels.reshape(height, width))
    if not draw(st.booleans()):
        return mask
    at, char = (
        draw(st.integers(0, len(mask.counts))),
        draw(st.sampled_from(["", "0", "o", "~", "P", "é", "/"])),
    )
    counts = mask.counts[:at] + char + mask.counts[at + draw(st.integers(0, 1)) :]
    return Mask(
        size=(height + draw(st.sampled_from([0, 0, 1, -height, 10**9])), width), counts=counts
    )


@given(st.lists(masks(), max_size=12), st.sampled_from([1, 10, 1 << 19]))
def test_many_masks_at_once_are_as_each_by_itself(found: list[Mask], at_once: int) -> None:
    with patch.object(run_lengths, "_AT_ONCE", at_once):
        assert whole_masks(found).tolist() == [rule(mask) for mask in found]


def test_a_large_mask_is_whole() -> None:
    pixels = np.zeros((1024, 4096), np.uint8)
    pixels[-1, -1] = 1
    assert whole_masks([encode_mask(pixels)]).all()
