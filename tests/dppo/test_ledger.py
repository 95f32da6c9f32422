"""The ledger: its rows are records."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from pelican.data.tables import LEDGER, read_rows, write_table
from pelican.dppo.difficulty import ledger_table, measure_of
from pelican.records import LedgerRow, Phase


def rows(rates: dict[str, float], loop: int, phase: Phase, policy: str = "p") -> pl.DataFrame:
    def outcome(rate: float) -> str:
        return "mastered" if rate == 1 else "intractable" if rate == 0 else "practice"

    table = pl.DataFrame(
        {
            "sample_id": list(rates),
            "success_rate": list(rates.values()),
            "mean_reward": list(rates.values()),
            "rollouts": [8] * len(rates),
            "family": ["counting"] * len(rates),
            "dimension": ["quantitative_numerical"] * len(rates),
            "source": ["test"] * len(rates),
            "outcome": [outcome(r) for r in rates.values()],
        },
        schema_overrides={
            "rollouts": pl.Int32,
            "success_rate": pl.Float64,
            "mean_reward": pl.Float64,
        },
        strict=False,
    )
    return ledger_table(table, loop, phase, policy)


def test_rows_are_valid_records(tmp_path: Path) -> None:
    path = tmp_path / "ledger.parquet"
    write_table(path, rows({"x": 0.5}, 1, Phase.RL, "abc").to_arrow().cast(LEDGER))
    (row,) = read_rows([path], LedgerRow)
    assert (row.sample_id, row.loop, row.phase, row.policy) == ("x", 1, Phase.RL, "abc")
    assert row.outcome == "practice"


def test_a_ledger_says_how_often_each_part_fails() -> None:
    ledger = pl.concat(
        [
            rows({"a": 0.25, "b": 0.75, "c": 0.0}, 2, Phase.SFT),
            rows({"d": 1.0}, 2, Phase.SFT).with_columns(family=pl.lit("planning")),
        ]
    )
    measure = measure_of(ledger)
    assert (measure.loop, measure.phase) == (2, Phase.SFT)
    part = "quantitative_numerical"
    assert measure.failures == {("counting", part): 0.6, ("planning", part): round(1 / 3, 9)}
