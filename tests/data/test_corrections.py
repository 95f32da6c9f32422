"""Corrections of a pool: what a file may say, and that every reader of the pool obeys it."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pelican.data.corrections import NONE, Corrections, read_corrections
from pelican.data.pool import check_pool, load_pool, read_index
from pelican.data.tables import pool_columns, shard_paths
from pelican.errors import UserInputError
from pelican.records import CountAnswer, Dimension
from tests.data.factory import sample, write_pool

PIXELS = 1_003_520


def written(path: Path, *lines: object) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def drop(name: str) -> dict[str, object]:
    return {"id": name, "action": "drop", "note": "blurred"}


def relabel(name: str, value: int) -> dict[str, object]:
    return {"id": name, "action": "relabel", "answer": {"kind": "count", "value": value}}


def redimension(name: str, value: str) -> dict[str, object]:
    return {"id": name, "action": "redimension", "dimension": value}


@pytest.fixture
def pool(tmp_path):
    samples = [sample(i, answer=CountAnswer(value=i), family="counting") for i in range(6)]
    write_pool(tmp_path / "pool", samples)
    return tmp_path / "pool", [s.id for s in samples]


def test_every_reader_of_the_pool_obeys(pool, tmp_path):
    folder, ids = pool
    path = written(
        tmp_path / "c.jsonl",
        drop(ids[0]),
        relabel(ids[1], 41),
        redimension(ids[1], "decision_planning"),
        redimension(ids[2], "temporal_sequential"),
        drop("of another pool"),
    )
    fixes = read_corrections(path)
    index = read_index(folder, fixes)
    assert [entry.id for entry in index.entries] == ids[1:]
    assert index.entries[0].dimension is Dimension.DECISION_PLANNING
    assert index.corrected == {
        "corrected_dropped": 1,
        "corrected_answer": 1,
        "corrected_dimension": 2,
        "corrections_unmatched": 1,
    }
    loaded = {s.id: s for s in load_pool(folder, max_pixels=PIXELS, corrections=fixes).samples}
    assert sorted(loaded) == sorted(ids[1:]) and loaded[ids[1]].answer == CountAnswer(value=41)
    assert loaded[ids[2]].dimension is Dimension.TEMPORAL_SEQUENTIAL
    rows = {row["id"]: row for row in pool_columns(folder, corrections=fixes).iter_rows(named=True)}
    assert sorted(rows) == sorted(ids[1:])
    assert json.loads(rows[ids[1]]["answer"])["value"] == 41
    assert rows[ids[2]]["dimension"] == "temporal_sequential"
    assert json.loads(rows[ids[3]]["answer"])["value"] == 3
    report = check_pool(folder, max_pixels=PIXELS, corrections=fixes)
    assert report.samples == 5 and report.summary()["corrected"] == index.corrected


def test_a_wrong_new_answer_is_quarantined_like_any_other(pool, tmp_path):
    folder, ids = pool
    answer = {"kind": "interval", "start": 0, "end": 1}  # no reward in the family counting
    path = written(tmp_path / "c.jsonl", {"id": ids[0], "action": "relabel", "answer": answer})
    index = read_index(folder, read_corrections(path))
    assert index.quarantine.counts == {"answer": 1} and len(index.entries) == len(ids) - 1


def test_without_corrections_nothing_changes(pool):
    folder, _ = pool
    assert not NONE and read_index(folder).corrected == {}
    assert pool_columns(folder).equals(pool_columns(folder, corrections=Corrections()))


BAD = {
    "not JSON": ("{", "line 1: Invalid JSON"),
    "an unknown action": ('{"id": "a", "action": "delete"}', "line 1: "),
    "no id": ('{"id": "", "action": "drop"}', "id: String should have"),
    "an answer that cannot be": (
        '{"id": "a", "action": "relabel", "answer": {"kind": "count", "value": -1}}',
        "greater than or equal to 0",
    ),
    "an unknown dimension": (
        '{"id": "a", "action": "redimension", "dimension": "taste"}',
        "dimension",
    ),
    "a field too many": ('{"id": "a", "action": "drop", "why": "x"}', "why"),
    "dropped twice": ('{"id": "a", "action": "drop"}\n{"id": "a", "action": "drop"}', "line 2"),
    "dropped and corrected": (
        '{"id": "a", "action": "drop"}\n'
        '{"id": "a", "action": "redimension", "dimension": "decision_planning"}',
        "dropped and corrected",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_one_sentence(tmp_path, case):
    text, words = BAD[case]
    path = tmp_path / "c.jsonl"
    path.write_text(text)
    with pytest.raises(UserInputError) as error:
        read_corrections(path)
    assert words in str(error.value) and str(path) in str(error.value)
    assert "\n" not in str(error.value)


@settings(max_examples=50)
@given(st.text(st.characters(codec="utf-8"), min_size=1), st.booleans())
@example("\u2028 \u2029 \u0085 \x0b \x0c \x1c \x1e", False)
def test_any_text_may_stand_in_a_line(tmp_path_factory, text, ascii_only):
    path = tmp_path_factory.mktemp("c") / "c.jsonl"
    line = {"id": text, "action": "drop", "note": text}
    path.write_text(
        json.dumps(line, ensure_ascii=ascii_only) + "\r\n", encoding="utf-8", newline=""
    )
    assert read_corrections(path).dropped == {text}


@pytest.mark.parametrize("name", ["c.jsonl", "pool/part.parquet"])
def test_a_named_pipe_is_refused_instead_of_waited_for(tmp_path, name):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    os.mkfifo(path)
    read = read_corrections if path.suffix == ".jsonl" else shard_paths
    with pytest.raises(UserInputError, match=f"{path.name} (is|are) no regular file"):
        read(path if path.suffix == ".jsonl" else path.parent)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserInputError, match="can't be read"):
        read_corrections(tmp_path / "none.jsonl")


@settings(max_examples=15)
@given(
    st.sets(st.integers(0, 5), max_size=3),
    st.dictionaries(st.integers(0, 5), st.integers(0, 99), max_size=4),
)
def test_a_corrected_pool_reads_as_one_that_was_written_so(tmp_path_factory, dropped, values):
    root = tmp_path_factory.mktemp("pools")
    values = {i: v for i, v in values.items() if i not in dropped}

    def one(i: int, right: int):
        return sample(i, answer=CountAnswer(value=right), family="counting")

    write_pool(root / "old", [one(i, i) for i in range(6)])
    new = [one(i, values.get(i, i)) for i in range(6) if i not in dropped]
    write_pool(root / "new", new)
    ids = [one(i, i).id for i in range(6)]
    lines = [drop(ids[i]) for i in dropped] + [relabel(ids[i], v) for i, v in values.items()]
    fixes = read_corrections(written(root / "c.jsonl", *lines))
    read = load_pool(root / "old", max_pixels=PIXELS, corrections=fixes).samples
    assert read == load_pool(root / "new", max_pixels=PIXELS).samples
