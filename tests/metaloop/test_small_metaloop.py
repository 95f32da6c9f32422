"""The whole metaloop on the shipped models and samples, small: every stage is real."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from pelican.config.env import home
from tests.metaloop.small import submit


@pytest.mark.slow
@pytest.mark.skipif(
    not (home() / "models/tiny-teacher/model.safetensors").exists(),
    reason="models/tiny-teacher is not there; `make base-model` trains it",
)
def test_the_metaloop_runs_from_end_to_end_and_a_second_call_redoes_nothing(
    tmp_path: Path,
) -> None:
    first = submit(tmp_path)
    assert first.returncode == 0, first.stdout + first.stderr
    run = tmp_path / "runs" / "small"
    manifests = {path: path.read_bytes() for path in run.rglob("manifest.json")}
    stages = sorted(f"{path.parent.parent.name}/{path.parent.name}" for path in manifests)
    assert len(stages) == 12, stages
    shown = json.loads(
        subprocess.run(
            [sys.executable, "-m", "pelican", "show", "small", "--json", "--store", str(tmp_path)],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    )
    phases = [(score["loop"], score["phase"]) for score in shown["scores"]]
    assert phases == [(0, "base"), (1, "rl"), (1, "sft")]
    assert all(0 <= score["embodied"] <= 100 for score in shown["scores"])
    assert len(shown["durations"]) >= 12
    ledger = pl.concat(pl.read_parquet(path) for path in run.rglob("ledger.parquet"))
    assert not ledger.select("sample_id", "loop", "phase").is_duplicated().any()
    assert len(ledger) == 48 + 96
    assert "<svg" in (run / "report.html").read_text()

    again = submit(tmp_path)
    assert again.returncode == 0, again.stdout + again.stderr
    assert {path: path.read_bytes() for path in run.rglob("manifest.json")} == manifests
