"""What a stage notes that it used."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from pelican.config.presets import find_recipe
from pelican.records import Phase
from pelican.stages.runner import cpu_seconds_used, gpus_held, resources
from pelican.stages.stage import Inputs, StageName, StageSpec
from pelican.storage.manifests import now


def spec(stage: StageName, *overrides: str) -> StageSpec:
    return StageSpec(
        stage=stage,
        store="",
        run="test",
        loop=1,
        phase=Phase.RL,
        output="",
        inputs={},
        recipe=find_recipe("tiny", overrides),
    )


# Whether CUDA is there is torch's to say; what follows from it is ours.
@pytest.mark.parametrize(
    ("stage", "engine", "cuda", "held"),
    [
        ("rollout", "transformers", True, 2),
        ("rollout", "vllm", True, 8),
        ("train-rl", "vllm", True, 2),
        ("eval", "vllm", False, 0),
        ("reward", "vllm", True, 0),
        ("filter", "transformers", True, 0),
    ],
)
def test_gpus_that_two_processes_hold(
    monkeypatch: pytest.MonkeyPatch, stage: StageName, engine: str, cuda: bool, held: int
) -> None:
    torch = SimpleNamespace(cuda=SimpleNamespace(is_available=lambda: cuda))
    monkeypatch.setitem(sys.modules, "torch", torch)
    config = [f"rollout.engine={engine}", "rollout.vllm.tensor_parallel_size=4"]
    assert gpus_held(spec(stage, *config), 2) == held


def test_a_process_without_torch_holds_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    found = resources(spec("rollout"), Inputs({}), 3, now(), 12.34)
    assert found == {"processes": 3, "gpus": 0, "gpu_seconds": 0.0, "cpu_seconds": 12.3}


def test_the_model_that_computes_is_counted(tmp_path: Path) -> None:
    for name, rows in (("policy", 3), ("teacher", 5)):
        (tmp_path / name).mkdir()
        tensors: dict[str, np.ndarray[Any, np.dtype[Any]]] = {
            "a": np.zeros((rows, 4), np.float32),
            "b": np.zeros(7, np.float16),
        }
        save_file(tensors, tmp_path / name / "model.safetensors")
    inputs = Inputs({name: str(tmp_path / name) for name in ("policy", "teacher")})
    for stage, parameters in (("rollout", 19), ("train-sft", 19), ("distill", 27)):
        assert resources(spec(stage), inputs, 1, now(), 0.0)["parameters"] == parameters
    assert "parameters" not in resources(spec("reward"), inputs, 1, now(), 0.0)
    asked = Inputs({"policy": str(tmp_path / "policy")})  # the teacher is at an endpoint
    assert "parameters" not in resources(spec("distill"), asked, 1, now(), 0.0)


def test_cpu_time_grows_with_work() -> None:
    before = cpu_seconds_used()
    while cpu_seconds_used() - before < 0.02:
        sum(range(10_000))
    assert cpu_seconds_used() > before
