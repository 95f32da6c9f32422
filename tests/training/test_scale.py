"""Training over several processes: the curve of one, whatever the strategy; resumed on another number.

Real gloo groups of forked processes; one program runs all cases, because importing TRL is what costs.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pelican.planning import qwen, state_bytes
from tests.training.curves import assert_same_curve, assert_same_weights, result, run_cases

# Of advantages and the loss: what one process makes of a whole batch, several make of their shares.
CHOICES = {"variance_of": "success", "scale_rewards": "batch", "mask_truncated": True}


def cases(root: Path) -> list[dict[str, Any]]:
    sft = {"kind": "sft", "strategy": "ddp", "world": 1, "steps": 4}
    rl = {"kind": "grpo", "strategy": "ddp", "world": 1, "steps": 3}
    half = {"save": 2, "stop": 2, "work": str(root / "sft-work")}
    text = {"text": True, "freeze": False, "steps": 2}
    spread: dict[str, dict[str, Any]] = {
        "1": {},
        "2": {"world": 2},
        "fsdp2": {"world": 2, "strategy": "fsdp2"},
    }
    planted = {"work": half["work"], "planted": "checkpoint-4/optimizer_0/.metadata"}
    return [
        {**sft, "name": "sft-1"},
        {**sft, "name": "sft-whole", "micro_tokens": 100_000},
        {**sft, "name": "sft-2", "world": 2},
        {**sft, "name": "sft-fsdp2", "world": 2, "strategy": "fsdp2"},
        {**sft, "name": "sft-fsdp2-half", "world": 2, "strategy": "fsdp2", **half},
        {**sft, "name": "sft-fsdp2-rest", "world": 4, "strategy": "fsdp2", "work": half["work"]},
        {**sft, "name": "sft-fsdp2-planted", "world": 2, "strategy": "fsdp2", **planted},
        *({**sft, **text, "name": f"sft-text-{name}", **more} for name, more in spread.items()),
        *({**rl, **text, "name": f"rl-text-{name}", **more} for name, more in spread.items()),
        {**sft, "name": "sft-bf16", "dtype": "bfloat16", "rate": 1e-6, "checkpointing": True},
        {**rl, "name": "rl-1"},
        {**rl, "name": "rl-2", "world": 2},
        {**rl, "name": "rl-choices-1", "rl": CHOICES},
        {**rl, "name": "rl-choices-2", "world": 2, "rl": CHOICES},
        {**rl, "name": "rl-fsdp2", "world": 2, "strategy": "fsdp2"},
        {**rl, "name": "rl-checkpointing", "checkpointing": True},
        {**rl, "name": "rl-lora", "world": 2, "lora": True, "checkpointing": True},
        {**rl, "name": "rl-served", "world": 2, "stale": 0},
        {**rl, "name": "rl-ahead", "stale": 1},
        {**rl, "name": "rl-ahead-fsdp2", "world": 2, "strategy": "fsdp2", "stale": 1},
    ]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what every case left."""
    root = tmp_path_factory.mktemp("scale")
    run_cases(root, cases(root))
    return root


@pytest.mark.parametrize(
    ("name", "same_as"),
    [
        ("sft-whole", "sft-1"),
        ("sft-2", "sft-1"),
        ("sft-fsdp2", "sft-1"),
        ("rl-2", "rl-1"),
        ("rl-choices-2", "rl-choices-1"),
        ("rl-fsdp2", "rl-1"),
        ("rl-checkpointing", "rl-1"),
        ("rl-served", "rl-1"),
        ("rl-ahead-fsdp2", "rl-ahead"),
    ],
)
def test_the_curve_is_that_of_one_process(runs: Path, name: str, same_as: str) -> None:
    one, other = result(runs, same_as), result(runs, name)
    # accelerate may fall back to copies of the model without a word
    assert ("fsdp2" in name) == ("FSDP" in other["backend"])
    assert_same_curve(one, other)


@pytest.mark.parametrize(
    ("name", "same_as"),
    [
        ("sft-fsdp2", "sft-1"),
        ("rl-fsdp2", "rl-1"),
    ],
)
def test_a_sharded_policy_is_saved_whole_under_the_checkpoints_names(
    runs: Path, name: str, same_as: str
) -> None:
    assert_same_weights(runs, same_as, name)


@pytest.mark.parametrize("kind", ["sft", "rl"])
@pytest.mark.parametrize("name", ["2", "fsdp2"])
def test_a_process_without_an_image_trains_with_one_that_has_some(
    runs: Path, kind: str, name: str
) -> None:
    shares = [result(runs, f"{kind}-text-{name}", rank)["images"] for rank in (0, 1)]
    assert any(bool(a) != bool(b) for a, b in zip(*shares, strict=True))
    one = result(runs, f"{kind}-text-1")
    assert one["moved"] > 0
    assert_same_curve(one, result(runs, f"{kind}-text-{name}"))
    assert_same_weights(runs, f"{kind}-text-1", f"{kind}-text-{name}")


def test_fsdp2_goes_on_with_another_number_of_processes(runs: Path) -> None:
    whole, half = result(runs, "sft-fsdp2"), result(runs, "sft-fsdp2-half")
    rest = result(runs, "sft-fsdp2-rest")
    assert half["losses"] == pytest.approx(whole["losses"][:2], rel=1e-3)
    # The log of the first half comes with the checkpoint.
    assert rest["losses"] == pytest.approx(whole["losses"], rel=1e-3)


def test_a_planted_checkpoint_runs_nothing_and_training_starts_anew(runs: Path) -> None:
    assert_same_curve(result(runs, "sft-fsdp2"), result(runs, "sft-fsdp2-planted"))
    assert not (runs / "sft-fsdp2-planted" / "mark").exists()
    assert (runs / "sft-work" / "refused-checkpoint-4").exists()


def test_groups_do_not_depend_on_the_number_of_processes(runs: Path) -> None:
    alone = result(runs, "rl-1")["drawn"]
    shares = [result(runs, "rl-2", rank)["drawn"] for rank in (0, 1)]
    for step, drawn in enumerate(alone):
        assert sorted(drawn) == sorted(shares[0][step] + shares[1][step])


def test_masters_are_float32_and_move_at_a_rate_that_bfloat16_cannot_tell(runs: Path) -> None:
    found = result(runs, "sft-bf16")
    assert found["dtypes"] == ["torch.float32"]
    assert 0 < found["moved"] < 1e-4
    saved = load_file(runs / "sft-bf16" / "checkpoint" / "model.safetensors")
    assert {value.dtype for value in saved.values()} == {torch.bfloat16}


def test_adapters_are_merged_into_the_checkpoint(runs: Path) -> None:
    assert result(runs, "rl-lora")["moved"] > 0
    start = load_file(runs / "twin" / "model.safetensors")
    merged = load_file(runs / "rl-lora" / "checkpoint" / "model.safetensors")
    changed = {key for key in start if not torch.equal(start[key], merged[key])}
    assert set(start) == set(merged)
    assert changed and all("_proj" in key and "visual" not in key for key in changed)


@pytest.mark.parametrize(
    ("name", "strategy", "world"), [("sft-1", "ddp", 1), ("sft-fsdp2", "fsdp2", 2)]
)
def test_the_plan_counts_the_bytes_that_are_held(
    runs: Path, name: str, strategy: str, world: int
) -> None:
    from tests.training.scaled import recipe_of

    shape = qwen("twin", json.loads((runs / "twin" / "config.json").read_text()))
    planned = state_bytes(shape, recipe_of({"steps": 1, "strategy": strategy}), world)
    planned.pop("gradients, float32")
    held = [result(runs, name, rank)["state_bytes"] for rank in range(world)]
    assert sum(planned.values()) * world == pytest.approx(sum(held), rel=1e-6)
