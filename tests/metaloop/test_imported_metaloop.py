"""The metaloop on a pool that was imported from files, with clips that come with the horizon."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from pelican.config.env import home
from pelican.data.pool import read_index
from pelican.data.versions import read_version
from tests.metaloop.exported import STEP_S, export
from tests.metaloop.small import ENVIRONMENT, OVERRIDES

# Kind of answer and span in seconds -> samples.
WANTED = {
    ("points", 0.0): 12, ("count", 0.0): 12, ("text", 0.0): 12, ("steps", 0.0): 6,
    ("choice", 24.0): 12, ("text", 24.0): 12, ("distance", 24.0): 6, ("interval", 24.0): 3,
    ("choice", 56.0): 12, ("text", 56.0): 12, ("steps", 56.0): 3,
}  # fmt: skip


def pelican(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pelican", *words]
    return subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT)


@pytest.mark.long
@pytest.mark.skipif(
    not (home() / "models/tiny-teacher/model.safetensors").exists(),
    reason="models/tiny-teacher is not there; `make base-model` trains it",
)
def test_the_metaloop_runs_on_an_imported_pool_and_long_clips_come_in_loop_2(
    tmp_path: Path,
) -> None:
    chosen = export(home() / "samples/train", tmp_path / "lab", WANTED)
    pool, store = tmp_path / "pool", tmp_path / "store"
    done = pelican(
        "data", "import", str(tmp_path / "lab"), "--out", str(pool), "--step-s", str(STEP_S)
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "read as robopoint" in done.stdout
    bad = [json.loads(line) for line in (pool / "quarantine.jsonl").read_text().splitlines()]
    assert {row["id"]: row["code"] for row in bad} == {
        "gone": "media_missing",
        "elsewhere": "media_path",
    }
    # What the clips were is what they are again: the frames' times, and so the horizons.
    spans = {entry.id: entry.span_s for entry in read_index(pool).entries}
    assert spans == {f"lab/{id}": sample.span_s for id, sample in chosen.items()}

    small = OVERRIDES.replace("loops=1", "loops=2").replace(
        "samples_per_loop=48", "samples_per_loop=none"
    )
    wishes = f"{small} data.train={pool}"
    ran = pelican("submit", "--run", "lab", "--store", str(store), "--set", wishes)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    run = store / "runs" / "lab"
    version = read_version(pool)
    report = json.loads((run / "preflight.json").read_text())
    assert version is not None and report["train"]["version"] == version.id
    shown = json.loads(pelican("show", "lab", "--json", "--store", str(store)).stdout)
    phases = [(score["loop"], score["phase"]) for score in shown["scores"]]
    assert phases == [(0, "base"), (1, "rl"), (1, "sft"), (2, "rl"), (2, "sft")]
    for loop, horizon in ((1, 32.0), (2, 64.0)):
        ledgers = list((run / f"loop-{loop}").rglob("ledger.parquet"))
        assert len(ledgers) == 2
        for path in ledgers:
            seen = set(pl.read_parquet(path)["sample_id"])
            assert seen == {id for id, span in spans.items() if span <= horizon}
