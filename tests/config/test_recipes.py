"""Recipes by name, their ablations, and overrides whose mistakes end in one sentence."""

from __future__ import annotations

import pytest

from pelican.config.overrides import describe, fields
from pelican.config.presets import ABLATIONS, BASES, find_recipe
from pelican.config.recipe import Recipe
from pelican.errors import UserInputError

# Those that the trainers at scale don't know, which the large recipes ask for.
SMALL = {"asymmetric_clipping", "symmetric_clipping", "perception_loss", "hints"}


@pytest.mark.parametrize("base", sorted(BASES))
@pytest.mark.parametrize("ablation", [*sorted(ABLATIONS), "threshold(0.5)", "noisy_reward(0.25)"])
def test_every_ablation_of_every_base_is_another_complete_recipe(base: str, ablation: str) -> None:
    if base != "tiny" and ablation in SMALL:
        with pytest.raises(UserInputError, match=r"rl\.variant only rollouts works with parallel"):
            find_recipe(f"{base}+{ablation}")
        return
    recipe = find_recipe(f"{base}+{ablation}")
    assert recipe.digest() != find_recipe(base).digest()
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe


@pytest.mark.parametrize("base", ["pelican_7b", "pelican_72b"])
def test_models_that_were_not_trained_on_the_format_are_asked_for_it(base: str) -> None:
    asked = find_recipe(base).model.system_prompt or ""
    assert all(tag in asked for tag in ("<think>", "</think>", "<answer>", "</answer>"))


def test_ablations_change_one_idea() -> None:
    tiny, no_rl = find_recipe("tiny"), find_recipe("tiny+sft_only")
    changed = {k for k, v in fields(no_rl).items() if v != fields(tiny)[k]}
    assert changed == {"name", "rl.enabled"}


def test_random_sampling_chooses_nowhere() -> None:
    tiny, random = fields(find_recipe("tiny")), fields(find_recipe("tiny+random_sampling"))
    changed = {k: v for k, v in random.items() if v != tiny[k] and k != "name"}
    assert changed == {"filter.strategy": "random", "rl.refill": 0, "rl.oversample": 1.0}


def test_uniform_sft_differs_from_mined_sft_in_its_prompts_alone() -> None:
    mined, uniform = fields(find_recipe("tiny+sft_mined")), fields(find_recipe("tiny+sft_uniform"))
    bare = fields(find_recipe("tiny+sft_uniform_bare"))
    assert {k for k, v in uniform.items() if v != mined[k]} == {"name", "distill.prompts"}
    assert {k for k, v in bare.items() if v != uniform[k]} == {"name", "distill.ratio"}
    assert bare["distill.ratio"] == (1.0, 4.0, 0.0)


def test_an_ablation_of_two_names_is_one_recipe() -> None:
    assert find_recipe("tiny+sft_mined") == find_recipe("tiny+sft_only")


def test_one_loop_trains_as_many_steps_as_all_loops() -> None:
    tiny, one = find_recipe("tiny"), find_recipe("tiny+one_loop")
    assert one.loops == 1
    assert one.rl.max_steps == tiny.loops * tiny.rl.max_steps
    assert one.data.samples_per_loop == tiny.loops * tiny.data.samples_per_loop
    assert one.distill.max_rows == tiny.loops * tiny.distill.max_rows
    assert one.data.horizon(1) == tiny.data.horizon(tiny.loops)
    assert find_recipe("tiny+one_loop", ["distill.max_calls=64"]).distill.max_calls == 64
    budget = find_recipe("tiny", ["distill.max_calls=64"])
    assert ABLATIONS["one_loop"](budget).distill.max_calls == 192
    bounded = tiny.model_copy(update={"sft": tiny.sft.model_copy(update={"max_steps": 7})})
    assert ABLATIONS["one_loop"](bounded).sft.max_steps == 7 * tiny.loops


@pytest.mark.parametrize(
    ("text", "field", "value"),
    [
        ("loops=2", "loops", 2),
        ("rl.variant.rollouts=16", "rl.variant.rollouts", 16),
        ("rl.max_steps=50 loops=1", "rl.max_steps", 50),
        ("data.horizon_s=8,16.5", "data.horizon_s", (8.0, 16.5)),
        ("data.horizon_s=[8]", "data.horizon_s", (8.0,)),
        ("data.horizon_s=8", "data.horizon_s", (8.0,)),
        ("data.samples_per_loop=none", "data.samples_per_loop", None),
        ("rl.enabled=false", "rl.enabled", False),
        ("rl.learning_rate=1e-5", "rl.learning_rate", 1e-5),
        ("models.policy=/checkpoints/7b", "models.policy", "/checkpoints/7b"),
        ("data.train='my data/train'", "data.train", "my data/train"),
        ("distill.endpoint=http://teacher:8000/v1", "distill.endpoint", "http://teacher:8000/v1"),
    ],
)
def test_overrides_are_typed(text: str, field: str, value: object) -> None:
    assert fields(find_recipe("tiny", [text]))[field] == value


def test_a_section_that_a_recipe_does_without_can_be_set_field_by_field() -> None:
    judged = find_recipe(
        "tiny", ["reward.judge.endpoint=http://judge:8000/v1 reward.judge.model=7b"]
    )
    assert judged.reward.judge is not None
    assert (judged.reward.judge.endpoint, judged.reward.judge.votes) == ("http://judge:8000/v1", 3)


@pytest.mark.parametrize(
    ("address", "override", "words"),
    [
        ("tyni", "", ["'tyni'", "did you mean 'tiny'"]),
        ("tiny+rlonly", "", ["'rlonly'", "did you mean 'rl_only'"]),
        ("tiny+threshold", "", ["needs a number", "threshold(0.5)"]),
        ("tiny+threshold(2)", "", ["outside 0 to 1"]),
        ("tiny+rl_only(3)", "", ["takes no number"]),
        ("tiny+rl_only+sft_only", "", ["nothing would be trained"]),
        ("tiny", "rl.max_step=5", ["'rl.max_step'", "did you mean 'rl.max_steps'"]),
        ("tiny", "reward.judge.model=7b", ["reward.judge.endpoint is missing; set it too"]),
        ("tiny", "reward.judge.end=x", ["'reward.judge.end'", "'reward.judge.endpoint'"]),
        ("tiny", "lop=5", ["'lop'", "did you mean 'loops'"]),
        ("tiny", "group_size=4", ["did you mean 'rl.group_size'"]),
        ("tiny", "rl=4", ["rl is a section"]),
        ("tiny", "rl.max_steps=many", ["rl.max_steps=many", "a whole number"]),
        ("tiny", "loops=2.5", ["loops=2.5", "a whole number"]),
        ("tiny", "loops=11", ["loops=11", "less than or equal to 10"]),
        ("tiny", "rl.enabled=perhaps", ["rl.enabled=perhaps", "true or false"]),
        ("tiny", "rollout.engine=vlm", ["rollout.engine=vlm", "'vllm'"]),
        ("tiny", "data.train=3", ["data.train=3", "a text"]),
        ("tiny", "data.horizon_s=long", ["data.horizon_s=long", "a list"]),
        ("tiny", "distill.ratio=1,2", ["distill.ratio=1,2", "more values"]),
        ("tiny", "rl.learning_rate=inf", ["rl.learning_rate=inf", "a finite number"]),
        ("tiny", "distill.ratio=0,0,0", ["distill.ratio is", "not all 0"]),
        ("tiny", "distill.ratio=1,-1,1", ["distill.ratio is", "0 or more"]),
        ("tiny", "rl.sampling.temperature=0", ["rl.sampling.temperature is 0", "raise it"]),
        ("tiny", "rl.processes=3", ["rl.prompts_per_step = 16", "rl.processes = 3"]),
        ("tiny", "sft.batch_size=49", ["sft.batch_size = 49", "sft.processes = 2"]),
        ("tiny", "model.dtype=bfloat16", ["cache_vision needs model.dtype=float32"]),
        ("tiny", "model.freeze_vision=false", ["cache_vision needs model.freeze_vision"]),
        ("tiny", "rl.variant.rollouts=4", ["rl.variant.rollouts = 4", "rl.group_size = 8"]),
        ("tiny", "rl.variant.updates=4", ["rl.save_steps = 10", "choose a multiple"]),
        ("tiny", "rl.variant.entropy=0.1", ["rl.variant.perception, which is 0"]),
        ("tiny", "distill.max_calls=1", ["distill.tries = 2", "no sample could be asked"]),
        ("tiny", "data.draws=weakness data.samples_per_loop=none", ["samples_per_loop", "set it"]),
        ("tiny+sft_uniform", "data.draws=weakness", ["nothing is", "set one of them back"]),
        ("tiny", "distill.guessable=0.2 distill.tries=1", ["distill.tries is 1", "raise it"]),
        (
            "tiny+replay_only",
            "distill.prompts=uniform",
            ["nothing to draw", "set one of them back"],
        ),
        ("tiny", "distill.prompts=all", ["distill.prompts=all", "'uniform'"]),
        ("tiny", "loops", ["'loops'", "field=value"]),
        ("tiny", "loops=2 loops=3", ["loops is set twice"]),
        ("tiny", "models.policy='half", ["cannot be read"]),
    ],
)
def test_a_mistake_ends_in_one_sentence(address: str, override: str, words: list[str]) -> None:
    with pytest.raises(UserInputError) as caught:
        find_recipe(address, [override])
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_fields_are_described() -> None:
    assert "optimiser steps" in describe("rl.stop.window")


def test_a_recipe_without_a_variant_has_the_digest_that_it_always_had() -> None:
    tiny = find_recipe("tiny")
    assert "variant" not in tiny.model_dump()["rl"]
    assert find_recipe("tiny", ["rl.variant.updates=1"]).digest() == tiny.digest()
    assert find_recipe("tiny", ["rl.variant.updates=2"]).digest() != tiny.digest()


@pytest.mark.parametrize(
    "given",
    [
        *("distill.max_calls=0", "distill.prompts=weak", "distill.keep_rows=false"),
        *("distill.choose=shortest", "distill.min_score=none", "distill.guessable=none"),
        *("filter.chance_p=none", "filter.zeros_again=0", "data.draws=pool"),
    ],
)
def test_what_changes_nothing_is_no_part_of_the_digest(given: str) -> None:
    tiny = find_recipe("tiny")
    assert find_recipe("tiny", [given]).digest() == tiny.digest()
    section, _, name = given.partition("=")[0].partition(".")
    assert name not in tiny.model_dump()[section]


def test_the_two_clippings_differ_in_their_bound_alone() -> None:
    one, other = (fields(find_recipe(f"tiny+{a}symmetric_clipping")) for a in ("a", ""))
    assert {k for k, v in one.items() if v != other[k]} == {"name", "rl.clip_high"}
    assert other["rl.clip_high"] == other["rl.clip_low"]


def test_down_sampling_draws_what_the_base_draws() -> None:
    tiny, half = find_recipe("tiny").rl, find_recipe("tiny+down_sampling").rl
    assert half.variant.drawn(half.group_size) == tiny.group_size == 2 * half.group_size
