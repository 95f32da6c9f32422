"""Training over four processes: the curve of one, as over two (test_scale.py)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.training.curves import assert_same_curve, assert_same_weights, result, run_cases

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("four")
    four = [
        {"kind": kind, "strategy": strategy, "world": 4, "name": f"{kind}-{strategy}"}
        for kind in ("sft", "grpo")
        for strategy in ("ddp", "fsdp2")
    ]
    one = [
        {"kind": kind, "strategy": "ddp", "world": 1, "name": f"{kind}-1"}
        for kind in ("sft", "grpo")
    ]
    run_cases(root, [{**case, "steps": 4} for case in one + four])
    return root


@pytest.mark.parametrize("kind", ["sft", "grpo"])
@pytest.mark.parametrize(("strategy", "backend"), [("ddp", "MULTI_CPU"), ("fsdp2", "FSDP")])
def test_four_processes_give_the_curve_and_the_weights_of_one(
    runs: Path, kind: str, strategy: str, backend: str
) -> None:
    other = result(runs, f"{kind}-{strategy}")
    assert backend in other["backend"]
    assert_same_curve(result(runs, f"{kind}-1"), other)
    assert_same_weights(runs, f"{kind}-1", f"{kind}-{strategy}")


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_four_processes_draw_the_groups_of_one(runs: Path, strategy: str) -> None:
    alone = result(runs, "grpo-1")["drawn"]
    shares = [result(runs, f"grpo-{strategy}", rank)["drawn"] for rank in range(4)]
    for step, drawn in enumerate(alone):
        assert sorted(drawn) == sorted(name for share in shares for name in share[step])
