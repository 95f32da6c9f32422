"""Success rates of rollouts that stand together are those of the rule, or are left to it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from unittest.mock import patch

import polars as pl
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pelican.config.recipe import FilterConfig
from pelican.data.tables import LEDGER
from pelican.dppo import difficulty
from pelican.dppo.difficulty import FILES, rates_of, rates_of_runs, success_rates, write_tables
from pelican.errors import UserInputError
from pelican.records import Phase

SCHEMA = {"sample_id": pl.String, "index": pl.Int32, "reward": pl.Float64, "success": pl.Boolean}


def write(path: Path, rows: list[tuple[str | None, int, float, bool]]) -> Path:
    pl.DataFrame(rows, schema=SCHEMA, orient="row").write_parquet(path)
    return path


row = st.tuples(
    st.sampled_from(["a", "b", "ü", "sample-0000001", None]),
    st.integers(0, 3),
    st.sampled_from([0.0, 0.1, 1 / 3, 0.97, 1.0]),
    st.booleans(),
)
# As the reward stage writes them, and as nobody should.
together = st.lists(
    st.tuples(st.sampled_from("abcdefgh"), st.lists(st.booleans(), min_size=1, max_size=9)),
    unique_by=lambda run: run[0],
).map(lambda runs: [(n, i, 0.1 + 0.7 * s, s) for n, found in runs for i, s in enumerate(found)])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(row, max_size=8) | together, min_size=1, max_size=3),
    st.sampled_from([1, 5, 100_000]),
)
def test_runs_give_the_rates_of_the_rule_or_none(
    shards: list[list[tuple[str | None, int, float, bool]]], batch: int
) -> None:
    with tempfile.TemporaryDirectory() as name, patch.object(difficulty, "_BATCH", batch):
        files = [write(Path(name) / f"{i}.parquet", rows) for i, rows in enumerate(shards)]
        expected = success_rates(pl.scan_parquet(files)).collect()
        found = rates_of_runs(files)
    if found is not None:
        assert found.select(expected.columns).equals(
            expected.with_columns(pl.col("doubled").cast(int))
        )


@given(together.filter(bool), st.sampled_from([1, 3, 100_000]), st.integers(1, 9))
@settings(max_examples=30, deadline=None)
def test_what_the_reward_stage_writes_is_read_as_runs(
    rows: list[tuple[str | None, int, float, bool]], batch: int, shard: int
) -> None:
    """Also where a batch, or a shard, ends within a sample's rollouts."""
    with tempfile.TemporaryDirectory() as name, patch.object(difficulty, "_BATCH", batch):
        files = [
            write(Path(name) / f"{start:03}.parquet", rows[start : start + shard])
            for start in range(0, len(rows), shard)
        ]
        found = rates_of_runs(files)
    assert found is not None and found["rollouts"].sum() == len(rows)
    assert found["sample_id"].n_unique() == len(found)


def test_more_rollouts_than_a_byte_counts_are_added_up(tmp_path: Path) -> None:
    rows = [("a", i, 1.0, True) for i in range(700)] + [("b", 0, 1.0, True)]
    found = rates_of_runs([write(tmp_path / "a.parquet", rows)])
    assert found is not None
    assert found["rollouts"].to_list() == [700, 1] and found["success_rate"].to_list() == [1, 1]


def pool_of(ids: list[str]) -> pl.DataFrame:
    about = {"family": "counting", "dimension": "x", "source": "made"}
    return pl.DataFrame({"id": ids, **{name: [value] * len(ids) for name, value in about.items()}})


@pytest.mark.parametrize("ids", [["a", "b", "c"], ["c", "a", "b"]])
def test_the_order_of_the_pool_does_not_matter(tmp_path: Path, ids: list[str]) -> None:
    scores = write(tmp_path / "s.parquet", [("b", 0, 1.0, True), ("a", 0, 0.1, False)])
    rates = rates_of([scores], pool_of(ids))
    assert rates["sample_id"].to_list() == ["a", "b"]
    assert rates["outcome"].to_list() == ["intractable", "mastered"]


@pytest.mark.parametrize(
    "ids", [["a", "b"], ["b", "a"], ["a", "b", "c"], ["c", "b", "a"], ["0", "a", "b"]]
)
def test_each_sample_gets_its_own_columns_of_the_pool(tmp_path: Path, ids: list[str]) -> None:
    scores = write(tmp_path / "s.parquet", [("b", 0, 1.0, True), ("a", 0, 0.1, False)])
    pool = pool_of(ids).with_columns(pl.col("id").str.to_uppercase().alias("family"))
    rates = rates_of([scores], pool)
    assert rates.select("sample_id", "family").rows() == [("a", "A"), ("b", "B")]
    assert rates.columns == rates_of([scores], pool_of(["x", "b", "a"])).columns


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([("a", 0, 1.0, True), ("a", 0, 1.0, True)], "1 samples have a rollout that was scored twice"),
        ([("a", 0, 1.0, True), ("b", 0, 1.0, True), ("a", 0, 1.0, True)], "scored twice, such as 'a'"),
        ([("a", 0, 1.0, True), ("z", 0, 1.0, True)], "not in the pool, such as 'z'"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(
    tmp_path: Path, rows: list[tuple[str | None, int, float, bool]], words: str
) -> None:
    with pytest.raises(UserInputError, match=words):
        rates_of([write(tmp_path / "s.parquet", rows)], pool_of(["a", "b"]))


def test_the_tables_have_the_columns_of_their_schemas(tmp_path: Path) -> None:
    rows = [(n, i, 0.5, n == "a" or i > k) for k, n in enumerate("abc") for i in range(4)]
    rates = rates_of([write(tmp_path / "s.parquet", rows)], pool_of(["a", "b", "c"]))
    write_tables(tmp_path, rates, FilterConfig(), 0, loop=1, phase=Phase.RL, policy="p")
    ledger = pq.read_table(tmp_path / FILES[0])
    assert ledger.cast(LEDGER).to_pylist() == ledger.to_pylist() and len(ledger) == 3
    assert (
        pq.read_schema(tmp_path / "buffer.parquet").names
        == pq.read_schema(tmp_path / "weak.parquet").names
    )
