"""`pelican plan`: shapes against real tensors and published totals, and what it refuses."""

from __future__ import annotations

import json
import struct
from math import prod
from pathlib import Path

import pytest

from pelican.commands.plan import print_plan
from pelican.errors import UserInputError
from pelican.planning.estimate import GPUS, Load, train_memory
from pelican.planning.plan import make_plan
from pelican.planning.shapes import shape_of
from pelican.recipes import find_recipe
from pelican.settings import resolve

LOAD = Load(samples=20_000, prompt=1536, completion=1024)


def tensors(checkpoint: str) -> dict[str, int]:
    """Name -> numbers, from the header of the checkpoint's file."""
    path = Path(resolve(checkpoint)) / "model.safetensors"
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    return {name: prod(entry["shape"]) for name, entry in header.items() if "shape" in entry}


@pytest.mark.parametrize("checkpoint", ["models/tiny-base", "models/tiny-teacher"])
def test_every_parameter_of_a_real_checkpoint_is_counted(checkpoint: str) -> None:
    shape, found = shape_of(checkpoint), tensors(checkpoint)
    assert shape.total == sum(found.values())
    assert shape.vision == sum(size for name, size in found.items() if "visual" in name)


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("Qwen2.5-VL-3B-Instruct", 3.75),
        ("Qwen2.5-VL-7B-Instruct", 8.29),
        ("Qwen2.5-VL-72B-Instruct", 73.41),
    ],
)
def test_published_sizes_come_out(name: str, billions: float) -> None:
    assert shape_of(f"models/{name}").total / 1e9 == pytest.approx(billions, abs=0.006)


def refusals(recipe: str, *overrides: str, gpu: str = "h100", nodes: int = 1) -> str:
    return "\n".join(make_plan(find_recipe(recipe, overrides), gpu, nodes, 8, LOAD).refusals)


def test_the_7b_recipe_fits_one_node() -> None:
    assert refusals("pelican_7b") == ""


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ("parallel.strategy=ddp", "train-rl needs .* set parallel.strategy=fsdp2"),
        ("parallel.micro_tokens=none", "lower parallel.micro_tokens"),
        ("rollout.vllm.tensor_parallel_size=1", "distill needs .* raise rollout.vllm.tensor"),
        ("rl.processes=16", "train-rl asks for 16 GPUs, but 1 x 8 are 8"),
    ],
)
def test_what_can_not_fit_is_refused_with_the_way_out(overrides: str, words: str) -> None:
    import re

    assert re.search(words, refusals("pelican_7b", overrides))


def test_a_copy_to_generate_with_is_what_72b_rl_would_fail_on() -> None:
    copies = "rl.generation.where=process rl.generation.max_staleness=0"
    found = refusals("pelican_72b", copies, nodes=8)
    assert "train-rl needs" in found and "copy to generate with 147 GB" in found
    assert "set rl.generation.where=server" in found
    assert refusals("pelican_72b", nodes=8) == ""
    assert refusals("pelican_72b+sft_only", nodes=8) == ""


def test_sharding_divides_the_state_by_the_processes() -> None:
    recipe, shape = find_recipe("pelican_7b"), shape_of("models/Qwen2.5-VL-7B-Instruct")
    alone = find_recipe("pelican_7b", ["parallel.strategy=ddp"])
    for part in ("weights, float32", "gradients, float32", "Adam's moments, float32"):
        sharded = train_memory(shape, recipe, LOAD, rl=False)[part]
        assert train_memory(shape, alone, LOAD, rl=False)[part] == pytest.approx(8 * sharded)


def test_adapters_need_moments_for_themselves_alone() -> None:
    shape = shape_of("models/Qwen2.5-VL-7B-Instruct")
    recipe = find_recipe("pelican_7b", ["parallel.lora_rank=64"])
    parts = train_memory(shape, recipe, LOAD, rl=True)
    assert parts["Adam's moments, float32"] < 0.05 * parts["weights, float32"]
    assert "reference" not in parts  # the policy without its adapters


def test_every_gpu_is_known_by_name_and_another_is_refused() -> None:
    assert set(GPUS) == {"a100", "h100", "h200", "b200", "l40s"}
    options = {"nodes": 1, "gpus_per_node": 8, "prompt_tokens": None, "completion_tokens": None}
    with pytest.raises(UserInputError, match=r"'h10'.*'h100'"):
        print_plan("tiny", [], gpu="h10", samples=1, as_json=True, **options)  # type: ignore[arg-type]


def test_a_pool_that_is_not_here_needs_the_number_of_samples() -> None:
    options = {"nodes": 1, "gpus_per_node": 8, "prompt_tokens": None, "completion_tokens": None}
    with pytest.raises(UserInputError, match="give --samples"):
        print_plan("pelican_7b", [], gpu="h100", samples=None, as_json=True, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("{", "not a configuration in JSON"),
        ("[]", "not a configuration in JSON"),
        ('{"model_type": "llama"}', "knows qwen2_5_vl"),
        ('{"model_type": "qwen2_5_vl"}', "lacks 'vision_config'"),
    ],
)
def test_a_spoilt_configuration_ends_in_one_sentence(
    tmp_path: Path, config: str, words: str
) -> None:
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(UserInputError, match=words):
        shape_of(str(tmp_path))
