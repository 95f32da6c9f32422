"""Curves of small trainings over several processes: run by `tests.training.scaled`, read and compared."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.engines.twin import write_twin

ROOT = Path(__file__).parent.parent.parent


def run_cases(root: Path, cases: Sequence[dict[str, Any]]) -> None:
    """Train every case below `root`, one after the other, from the start in `root/twin`, or `untied`."""
    twins = {
        "twin": str(write_twin(root / "twin")),
        "untied": str(write_twin(root / "untied", tied=False)),
    }
    (root / "cases.json").write_text(json.dumps({**twins, "cases": cases}))
    run_program("tests.training.scaled", str(root / "cases.json"))


def run_program(module: str, *arguments: str) -> None:
    """Run a module of the tests in a Python of its own; the test fails with what it printed."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def result(runs: Path, name: str, rank: int = 0) -> dict[str, Any]:
    """What a rank of a case wrote; the test fails with the error of any rank."""
    for error in sorted((runs / name).glob("error-*.json")):
        pytest.fail(f"{name}, {error.stem}: {error.read_text()}")
    found: dict[str, Any] = json.loads((runs / name / f"result-{rank}.json").read_text())
    return found


def assert_same_curve(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert other["losses"] == pytest.approx(one["losses"], rel=1e-3, abs=2e-6)
    assert other["norms"] == pytest.approx(one["norms"], rel=1e-3)


def assert_same_gradients(runs: Path, one: str, other: str, tolerance: float) -> None:
    """Those of the first step, parameter by parameter; errors as shares of each one's largest."""
    first = load_file(runs / one / "gradients.safetensors")
    second = load_file(runs / other / "gradients.safetensors")
    assert set(first) == set(second) and first
    largest = max(float(gradient.abs().max()) for gradient in first.values())
    wrong = {
        name: float(
            (gradient - second[name]).abs().max() / max(largest * 1e-2, gradient.abs().max())
        )
        for name, gradient in first.items()
    }
    assert max(wrong.values()) < tolerance, {n: e for n, e in wrong.items() if e >= tolerance}


def assert_same_weights(runs: Path, one: str, other: str) -> None:
    """Both ended with the same weights, not those of the start, under the start's names."""
    start = load_file(runs / "twin" / "model.safetensors")
    first = load_file(runs / one / "checkpoint" / "model.safetensors")
    second = load_file(runs / other / "checkpoint" / "model.safetensors")
    assert set(start) == set(first) == set(second)
    for key, value in first.items():
        assert torch.allclose(value, second[key], atol=2e-4), key
    assert any(not torch.equal(first[key], start[key]) for key in start)
