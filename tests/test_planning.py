"""`pelican plan`: shapes against real tensors and published totals, and what it refuses."""

from __future__ import annotations

import json
import re
import struct
from math import prod
from pathlib import Path

import pytest

from pelican.cli.recipes import print_plan
from pelican.config.env import resolve
from pelican.config.presets import find_recipe
from pelican.errors import UserInputError
from pelican.planning import (
    GPUS,
    Load,
    engine_seconds,
    make_plan,
    rl_step_seconds,
    shape_of,
    train_memory,
)

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
    assert re.search(words, refusals("pelican_7b", overrides))


def test_a_copy_to_generate_with_is_what_72b_rl_would_fail_on() -> None:
    copies = "rl.generation.where=process rl.generation.max_staleness=0"
    found = refusals("pelican_72b", copies, nodes=8)
    assert "train-rl needs" in found and "copy to generate with 147 GB" in found
    assert "set rl.generation.where=server" in found
    assert refusals("pelican_72b", nodes=9) == ""
    assert refusals("pelican_72b+sft_only", nodes=8) == ""


def test_the_servers_of_a_training_take_gpus_beside_it() -> None:
    assert re.search(
        "train-rl, generation servers ask for 68 GPUs, but 8 x 8 are 64; give --nodes 9",
        refusals("pelican_72b", nodes=8),
    )
    assert "generation servers needs" in refusals(
        "pelican_72b", "rollout.vllm.tensor_parallel_size=1", nodes=16
    )


@pytest.mark.parametrize(
    ("named", "servers"),
    [(None, 1), ("http://a:80", 1), ("http://a:80,http://b:80,http://c:80", 3)],
)
def test_servers_are_those_that_the_recipe_names_or_one(named: str | None, servers: int) -> None:
    env = {} if named is None else {"PELICAN_GENERATION_SERVERS": named}
    recipe = find_recipe("pelican_72b", [f"resources.train_rl.env={json.dumps(env)!r}"])
    plan = make_plan(recipe, "h100", 10, 8, LOAD)
    (found,) = (stage for stage in plan.stages if stage.beside)
    assert found.gpus == 4 * servers and plan.gpus == 64 + 4 * servers
    assert plan.hours == pytest.approx(sum(s.hours for s in plan.stages if s is not found))
    ahead = plan_of_train_rl("pelican_72b")
    assert plan_of_train_rl("pelican_72b", "rl.generation.max_staleness=0") > ahead


def plan_of_train_rl(recipe: str, *overrides: str) -> float:
    """Hours of train-rl."""
    stages = make_plan(find_recipe(recipe, overrides), "h100", 9, 8, LOAD).stages
    return next(stage.hours for stage in stages if stage.stage == "train-rl")


def plan_of_rollouts(*overrides: str) -> float:
    """Hours of rollouts and evaluations."""
    return make_plan(find_recipe("pelican_7b", overrides), "h100", 1, 8, LOAD).stages[0].hours


def test_what_is_rolled_out_is_what_the_recipe_asks_for() -> None:
    plain = plan_of_rollouts()
    assert plan_of_rollouts("distill.prompts=uniform") < plain  # nothing is mined
    assert plan_of_rollouts("eval.samples=16") > 1.3 * plain
    assert plan_of_rollouts("distill.prompts=uniform", "rl.enabled=false") < 0.5 * plain


@pytest.mark.parametrize(
    ("recipe", "overrides", "generation", "training"),
    [
        ("tiny", "rl.variant.rollouts=16", (1.5, 2.0), (1, 1)),  # prompts are computed once
        ("tiny", "rl.variant.updates=2", (0.5, 0.5), (0.8, 1)),  # the reference, once a batch
        ("tiny", "rl.variant.hints=true", (2, 2), (1, 1)),
        ("tiny", "rl.variant.perception=0.02", (1, 1), (1.1, 1.6)),
        ("tiny", "rl.variant.perception=0.02 rl.variant.masked_gradients=true", (1, 1), (1.6, 2)),
        ("pelican_72b", "rl.variant.rollouts=16", (1.5, 2.0), (1, 1)),
        ("pelican_72b", "rl.generation.importance_cap=none", (1, 1), (0.8, 0.95)),
    ],
)
def test_what_a_variant_of_rl_costs_a_step(
    recipe: str,
    overrides: str,
    generation: tuple[float, float],
    training: tuple[float, float],
) -> None:
    shape = shape_of(find_recipe(recipe).models.policy)
    plain = rl_step_seconds(shape, find_recipe(recipe), GPUS["h100"], LOAD)
    varied = rl_step_seconds(shape, find_recipe(recipe, [overrides]), GPUS["h100"], LOAD)
    for part, (least, most) in (("generation", generation), ("training", training)):
        assert least - 1e-9 <= varied[part] / plain[part] <= most + 1e-9


def test_completions_that_are_decoded_together_share_the_weights_reading() -> None:
    shape, recipe = shape_of("models/Qwen2.5-VL-7B-Instruct"), find_recipe("pelican_7b")
    one, eight = (engine_seconds(shape, recipe, GPUS["h100"], LOAD, 1, 1, n) for n in (1, 8))
    assert one < eight < 1.2 * one


def test_more_rollouts_of_a_group_need_more_keys_and_no_more_passes() -> None:
    shape = shape_of("models/Qwen2.5-VL-7B-Instruct")
    plain, more = (
        train_memory(shape, find_recipe("pelican_7b", wish), LOAD, rl=True)
        for wish in ([], ["rl.variant.rollouts=16"])
    )
    keys = "keys and values"
    assert more[keys] / plain[keys] == pytest.approx((1536 + 16 * 1024) / (1536 + 8 * 1024))
    assert {k: v for k, v in more.items() if k != keys} == {
        k: v for k, v in plain.items() if k != keys
    }


def test_only_the_trainers_at_scale_keep_a_copy_to_generate_with() -> None:
    shape = shape_of("models/tiny-base")
    alone, scaled = (
        train_memory(shape, find_recipe("tiny", [wish]), LOAD, rl=True)
        for wish in ("seed=0", "parallel.micro_tokens=4096 model.cache_vision=false")
    )
    assert "copy to generate with" not in alone
    assert scaled["copy to generate with"] == 4 * shape.total


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
