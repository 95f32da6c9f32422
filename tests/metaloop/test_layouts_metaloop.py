"""The metaloop on one pool of every layout that an import knows, with a replay in text alone."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from pelican.config.env import home
from pelican.data.pool import read_index
from pelican.data.versions import read_version
from tests.data.formats.layouts import LAYOUTS
from tests.data.formats.world import imported, write_lines
from tests.metaloop.small import OVERRIDES
from tests.metaloop.test_imported_metaloop import pelican


def replay(root: Path) -> Path:
    """Questions in text alone; "how many" is what the small teacher answers with a number."""
    rows = [
        {
            "id": n,
            "question": f"{n} balls and one cup: how many cups are on the table?",
            "answer": 1,
        }
        for n in range(2, 42)
    ]
    write_lines(root / "text.jsonl", rows)
    return root


@pytest.mark.long
@pytest.mark.skipif(
    not (home() / "models/tiny-teacher/model.safetensors").exists(),
    reason="models/tiny-teacher is not there; `make base-model` trains it",
)
def test_the_metaloop_trains_on_every_layout_and_replays_text_alone(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    pool = tmp_path / "pool"
    good = 0
    for number, (write, reader, rows, _) in enumerate(LAYOUTS.values()):
        source = tmp_path / f"lab{number}"
        source.mkdir()
        write(source)
        imported(source, pool, reader=reader, split="train")
        good += rows
    version = read_version(pool)
    assert version is not None and version.rows == good
    text = imported(replay(tmp_path / "text"), tmp_path / "replay").pool
    assert {e.family.value for e in read_index(text).entries} == {"general"}

    small = OVERRIDES.replace("samples_per_loop=48", "samples_per_loop=none")
    wishes = f"{small} data.train={pool} data.replay={text}"
    store = tmp_path / "store"
    ran = pelican("submit", "--run", "lab", "--store", str(store), "--set", wishes)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    run = store / "runs" / "lab"
    report = json.loads((run / "preflight.json").read_text())
    assert report["train"]["version"] == version.id and not report["train"]["quarantined"]
    seen = {id for path in run.rglob("ledger.parquet") for id in pl.read_parquet(path)["sample_id"]}
    assert len(seen) == good
    (mixture,) = run.rglob("mixture.parquet")
    learned = pl.read_parquet(mixture)
    assert any(id.startswith("text/") for id in learned["sample_id"])
