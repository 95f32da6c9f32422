"""The ledger: its rows are records."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from pelican.data.tables import LEDGER, read_rows, write_table
from pelican.dppo.difficulty import ledger_table
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
