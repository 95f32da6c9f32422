"""The ledger: no row twice, and what became of every sample."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from pelican.data.tables import LEDGER, write_table
from pelican.practice.ledger import history, ledger_rows, ledger_table, read_ledgers, transitions
from pelican.records import Phase


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


def save(path: Path, table: pl.DataFrame) -> Path:
    write_table(path, table.to_arrow().cast(LEDGER))
    return path


def test_no_row_stands_twice_and_the_last_one_counts(tmp_path: Path) -> None:
    old = save(tmp_path / "a.parquet", rows({"x": 0.5, "y": 0.0}, 1, Phase.RL, "old"))
    new = save(tmp_path / "b.parquet", rows({"x": 0.75}, 1, Phase.RL, "new"))
    later = save(tmp_path / "c.parquet", rows({"x": 1.0}, 1, Phase.SFT))
    ledger = read_ledgers([old, later, new, old.with_name("c.parquet")])
    assert len(ledger) == 3
    assert ledger.select("sample_id", "loop", "phase").n_unique() == 3
    assert history(ledger, "x")["success_rate"].to_list() == [0.75, 1.0]
    assert read_ledgers([]).is_empty()


def test_history_is_in_time() -> None:
    parts = [
        rows({"x": 0.9}, 2, Phase.RL),
        rows({"x": 0.6}, 1, Phase.SFT),
        rows({"x": 0.1}, 1, Phase.RL),
        rows({"x": 0.0}, 0, Phase.BASE),
    ]
    assert history(pl.concat(parts), "x")["success_rate"].to_list() == [0.0, 0.1, 0.6, 0.9]


def test_rows_are_valid_records() -> None:
    (row,) = ledger_rows(rows({"x": 0.5}, 1, Phase.RL, "abc"))
    assert (row.sample_id, row.loop, row.phase, row.policy) == ("x", 1, Phase.RL, "abc")
    assert row.outcome == "practice"


def test_transitions_name_what_solved_a_sample() -> None:
    ledger = pl.concat(
        [
            rows({"rl": 0.25, "forgot": 0.75, "weak": 0, "lost": 0, "kept": 1}, 1, Phase.RL),
            rows(
                {"rl": 0.5, "forgot": 0.25, "weak": 0, "lost": 0, "kept": 1, "part": 0.25},
                1,
                Phase.SFT,
            ),
            rows({"rl": 1, "weak": 0.75, "lost": 0, "kept": 0.25, "part": 0.5}, 2, Phase.RL),
        ]
    )
    teacher = pl.DataFrame(
        {
            "sample_id": ["weak", "weak", "lost"],
            "loop": [1, 1, 1],
            "accepted": [False, True, False],
        }
    )
    found = {
        (r["sample_id"], r["by"]): r["transition"] for r in transitions(ledger, teacher).to_dicts()
    }
    assert found == {
        ("rl", "rl"): "solved_by_rl",
        ("forgot", "rl"): "forgotten",
        ("weak", "rl"): "still_unsolved",
        ("lost", "rl"): "still_unsolved",
        ("kept", "rl"): "still_solved",
        ("rl", "sft"): "still_solved",
        ("weak", "sft"): "solved_after_teacher",
        ("lost", "sft"): "teacher_failed",
        ("kept", "sft"): "forgotten",
        ("part", "sft"): "solved_by_sft",
    }


def test_without_the_teachers_table_every_weak_sample_counts_as_taught() -> None:
    ledger = pl.concat([rows({"a": 0, "b": 0}, 1, Phase.SFT), rows({"a": 1, "b": 0}, 2, Phase.RL)])
    assert transitions(ledger)["transition"].to_list() == ["solved_after_teacher", "still_unsolved"]
