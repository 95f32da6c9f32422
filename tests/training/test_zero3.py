"""DeepSpeed's ZeRO-3 over several processes: the curve of one, its weights, and resume.

On CPUs over gloo. Marked long, and skipped where DeepSpeed is not installed: it is of the extra `gpu`.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from tests.training.curves import assert_same_curve, assert_same_weights, result, run_cases

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(
        importlib.util.find_spec("deepspeed") is None,
        reason="deepspeed, of the extra 'gpu', is not installed",
    ),
]


def cases(root: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for kind, steps in (("sft", 4), ("grpo", 3)):
        one = {"kind": kind, "strategy": "ddp", "world": 1, "steps": steps, "name": f"{kind}-1"}
        two = {**one, "strategy": "zero3", "world": 2, "name": f"{kind}-2"}
        work = {"work": str(root / f"{kind}-work")}
        found += [
            one,
            two,
            {**two, "world": 4, "name": f"{kind}-4"},
            {**two, **work, "save": 2, "stop": 2, "name": f"{kind}-half"},
            {**two, **work, "world": 4, "name": f"{kind}-refused"},
            {**two, **work, "name": f"{kind}-rest"},
        ]
    planted = {
        "work": str(root / "sft-work"),
        "planted": "checkpoint-4/*/*pp_rank_0_*_optim_states.pt",
    }
    again = {"kind": "sft", "strategy": "zero3", "world": 2, "steps": 4, "name": "sft-planted"}
    adapted = {"kind": "grpo", "steps": 3, "lora": True, "checkpointing": True}
    return [
        *found,
        {**again, **planted},
        {**adapted, "strategy": "ddp", "world": 2, "name": "lora-ddp"},
        {**adapted, "strategy": "zero3", "world": 2, "name": "lora-zero3"},
    ]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("zero3")
    run_cases(root, cases(root))
    return root


@pytest.mark.parametrize("kind", ["sft", "grpo"])
@pytest.mark.parametrize("world", [2, 4])
def test_zero3_gives_the_curve_and_the_weights_of_one_process(
    runs: Path, kind: str, world: int
) -> None:
    other = result(runs, f"{kind}-{world}")
    assert "DEEPSPEED" in other["backend"]
    assert_same_curve(result(runs, f"{kind}-1"), other)
    assert_same_weights(runs, f"{kind}-1", f"{kind}-{world}")


def test_adapters_are_trained_and_merged_as_with_copies_of_the_model(runs: Path) -> None:
    assert_same_curve(result(runs, "lora-ddp"), result(runs, "lora-zero3"))
    assert_same_weights(runs, "lora-ddp", "lora-zero3")


@pytest.mark.parametrize("kind", ["sft", "grpo"])
def test_zero3_goes_on_exactly(runs: Path, kind: str) -> None:
    whole, half, rest = (result(runs, f"{kind}-{name}") for name in ("2", "half", "rest"))
    assert half["losses"] == whole["losses"][:2]
    # The log of the first half comes with the checkpoint.
    assert rest["losses"] == whole["losses"]
    assert rest["norms"] == whole["norms"]


def test_a_planted_checkpoint_runs_nothing_and_training_starts_anew(runs: Path) -> None:
    assert_same_curve(result(runs, "sft-2"), result(runs, "sft-planted"))
    assert not (runs / "sft-planted" / "mark").exists()
    assert (runs / "sft-work" / "refused-checkpoint-4").exists()


def test_zero3_refuses_another_number_of_processes(runs: Path) -> None:
    refused = json.loads((runs / "sft-refused" / "error-0.json").read_text())
    assert refused.startswith(
        "UserInputError: 2 processes wrote the ZeRO-3 checkpoint checkpoint-2"
    )


@pytest.mark.parametrize("world", [2, 4])
def test_each_process_holds_its_share_of_weights_and_moments(runs: Path, world: int) -> None:
    alone = result(runs, "sft-1")["state_bytes"]
    held = [result(runs, f"sft-{world}", rank)["state_bytes"] for rank in range(world)]
    assert sum(held) == pytest.approx(alone, rel=0.01)  # shards are padded to equal sizes
    assert max(held) == min(held)
