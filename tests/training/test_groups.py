"""Which groups are kept, how their rewards become advantages, what is left out of the loss: as TRL has it."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from trl import GRPOTrainer

from pelican.config.presets import find_recipe
from pelican.config.recipe import VarianceOf
from pelican.engines.transformers import Encoded, load_model
from pelican.errors import UserInputError
from pelican.records import Sample, Score
from pelican.training.arguments import grpo_arguments
from pelican.training.curve import RlCurve
from pelican.training.grpo import Group, StepRecord, differ
from tests.training.trainers import SAMPLES, grpo, letters, recipe, scheduled, scored


def score(task: float, formatted: float = 1.0) -> Score:
    reward = 0.1 * formatted + 0.9 * task
    return scored(task).model_copy(update={"reward": reward, "format": formatted})


@pytest.mark.parametrize(
    ("scores", "reward", "task", "success"),
    [
        ([score(1), score(1)], False, False, False),
        ([score(1), score(0)], True, True, True),
        ([score(0, 1), score(0, 0)], True, False, False),  # format alone
        ([score(0.6), score(0.9)], True, True, False),  # both count as success
        ([score(0.5, 1), score(0.6, 0.1)], False, True, False),  # the parts cancel out
    ],
)
def test_a_group_has_variance_in_what_is_looked_at(
    scores: list[Score], reward: bool, task: bool, success: bool
) -> None:
    found: dict[VarianceOf, bool] = {"reward": reward, "task": task, "success": success}
    for of, expected in found.items():
        assert differ(scores, of) == expected, of
        group = Group(SAMPLES[0], Encoded([1], []), [[1]] * 2, scores, variance_of=of)
        assert group.has_variance == expected, of


def format_alone_for_even(sample: Sample, completion: str, index: int, step: int) -> Score:
    """Completions of odd samples differ in the task, those of even ones in format alone."""
    odd = int(sample.id[1:]) % 2
    return score(float(odd and index % 2), float(index % 2))


@pytest.mark.parametrize(("of", "replaced"), [("reward", False), ("task", True)])
def test_a_group_that_differs_in_format_alone_is_replaced_if_the_task_has_to_vary(
    of: VarianceOf, replaced: bool, twin: Path, tmp_path: Path
) -> None:
    steps: list[StepRecord] = []
    grpo(
        twin, tmp_path, format_alone_for_even, steps, max_steps=3, refill=8, variance_of=of
    ).train()
    for step in steps:
        odd = [int(group.sample.id[1:]) % 2 == 1 for group in step.trained]
        assert len(step.trained) == 4
        assert all(odd) == replaced
        assert (len(step.drawn) > 4) == replaced


def test_groups_that_fill_a_batch_without_variance_are_counted(twin: Path, tmp_path: Path) -> None:
    def all_fail_but(sample: Sample, completion: str, index: int, step: int) -> Score:
        return score(float(sample.id == SAMPLES[0].id and index % 2))

    steps: list[StepRecord] = []
    trainer = grpo(twin, tmp_path, all_fail_but, steps, max_steps=3, refill=0)
    curve = RlCurve(trainer._config, lambda value: [value, value], lambda *_: None)  # as two ranks
    trainer.add_callback(curve)
    noted = trainer._on_step
    trainer._on_step = lambda record: (noted(record), curve.add(record))  # type: ignore[func-returns-value]
    trainer.train()
    flat = [not group.has_variance for step in steps for group in step.trained]
    assert 0 < sum(flat) < len(flat) == 12
    assert curve.totals["groups_trained"] == 24
    assert curve.totals["groups_trained_flat"] == 2 * sum(flat)
    assert sum(row["trained_flat"] for row in curve.rows) == 2 * sum(flat)


# TRL's own trainer on the same completions and rewards.

PROMPT = [5, 6, 7]


def trained_alike(twin: Path, work: Path, **rl: Any) -> tuple[Any, dict[str, Any], Any, Any]:
    """TRL's trainer and its batch, ours and ours, of 4 groups of 4."""
    made = recipe(**rl)
    rng = np.random.default_rng(0)
    policy, encoder = load_model(made.model, twin)
    ends = encoder.eos_token_id
    ids = [[*rng.integers(10, 200, length).tolist(), ends] for length in rng.integers(1, 7, 16)]
    for row in (2, 9):  # cut off
        ids[row][-1] = 11
    rewards = rng.random(16).round(2).tolist()
    policy.config.name_or_path = str(twin)
    theirs = GRPOTrainer(
        model=policy,
        reward_funcs=lambda completion_ids, **_: rewards,
        args=grpo_arguments(made, work, 1, 0),
        train_dataset=scheduled(len(SAMPLES), 16),
        processing_class=encoder.processor,
        rollout_func=lambda prompts, trainer: {
            "prompt_ids": [PROMPT] * 16, "completion_ids": ids, "logprobs": None,
        },
    )  # fmt: skip
    ours = grpo(twin, work, letters, [], **rl)
    scores = [scored(reward) for reward in rewards]
    groups = [
        Group(SAMPLES[0], Encoded(PROMPT, []), ids[i : i + 4], scores[i : i + 4])
        for i in range(0, 16, 4)
    ]
    batch = theirs._generate_and_score_completions([{"prompt": "-"}] * 16)
    return theirs, batch, ours, ours._tensors(groups)


@pytest.mark.parametrize(("scale", "number"), [("group", 4), ("batch", 16), ("none", None)])
def test_advantages_are_trls_but_for_its_correction_of_the_deviation(
    scale: str, number: int | None, twin: Path, tmp_path: Path
) -> None:
    _, theirs, _, ours = trained_alike(twin, tmp_path, scale_rewards=scale)
    factor = 1.0 if number is None else (number / (number - 1)) ** 0.5
    expected = factor * theirs["advantages"].cpu()
    assert torch.allclose(ours["advantages"].cpu(), expected, rtol=1e-3)
    assert expected.abs().max() > 0.1


@pytest.mark.parametrize("masked", [False, True])
def test_what_was_cut_off_is_left_out_of_the_loss_as_trl_leaves_it_out(
    masked: bool, twin: Path, tmp_path: Path
) -> None:
    theirs, batch, ours, own = trained_alike(
        twin, tmp_path, scale_rewards="none", mask_truncated=masked
    )
    expected = theirs._compute_loss(theirs.model, batch)
    found = ours.grpo_loss(ours.model, own)
    assert found.item() == pytest.approx(expected.item(), rel=1e-4, abs=1e-6)
    expected.backward()
    found.backward()
    gradients, others = (
        torch.cat([p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None])
        for trainer in (theirs, ours)
    )
    assert torch.allclose(gradients, others, atol=1e-5)
    assert gradients.abs().max() > 1e-3


# What a step has no room for.


def varied(sample: Sample, completion: str, index: int, step: int) -> Score:
    """Every group varies, so that all that is drawn beyond a step's groups is left over."""
    return score(float(index % 2))


def test_left_over_groups_are_trained_on_in_the_next_step(twin: Path, tmp_path: Path) -> None:
    steps: list[StepRecord] = []
    rl = {"max_steps": 4, "save_steps": 3, "oversample": 1.5, "kl": 0.01, "keep_surplus": True}
    trainer = grpo(twin, tmp_path, varied, steps, **rl)
    curve = RlCurve(trainer._config, lambda value: [value], lambda *_: None)
    noted = trainer._on_step
    trainer._on_step = lambda record: (noted(record), curve.add(record))  # type: ignore[func-returns-value]
    trainer.train()
    # Six are wanted a step; the third leaves nothing to the one after its checkpoint.
    assert [step.carried for step in steps] == [0, 2, 2, 0]
    assert [len(step.drawn) for step in steps] == [6, 4, 4, 6]
    for before, after in pairwise(steps):
        fresh = [group.completions for group in after.drawn]
        carried = [group for group in after.trained if group.carried]
        assert all(group.completions not in fresh for group in carried)
        assert all(group.completions in [g.completions for g in before.drawn] for group in carried)
        assert all(group.logps is not None for group in carried)
    assert curve.totals["groups_carried"] == 4
    trained_once = sum(g.tokens for step in steps for g in step.trained)
    again = sum(step.read_again for step in steps)
    assert again > 0 and curve.totals["reference_tokens"] == trained_once + again


def test_the_ratio_of_a_left_over_group_is_to_the_policy_that_drew_it(
    twin: Path, tmp_path: Path
) -> None:
    rl = {"max_steps": 9, "oversample": 1.5, "keep_surplus": True}
    trainer = grpo(twin, tmp_path, varied, [], **rl)
    trainer.draw_groups([0, 1, 2, 3], 0)
    with torch.no_grad():
        for weights in trainer.model.parameters():
            weights.mul_(1.02)  # a step
    record = trainer.draw_groups([0, 1, 2, 3], 1)
    batch = trainer._tensors(record.trained)
    with torch.no_grad():
        now = trainer._completion_logps(trainer.model, batch)
    mask, old = batch["completion_mask"].bool(), batch["old_per_token_logps"]
    carried = [group.carried for group in record.trained for _ in group.completions]
    assert sum(carried) == 2 * 4
    for row, moved in enumerate(carried):
        kept = mask[row]
        assert torch.allclose(now[row][kept], old[row][kept], atol=1e-5) != moved


def test_a_resumed_training_has_the_left_over_groups_of_an_uninterrupted_one(
    twin: Path, tmp_path: Path
) -> None:
    rl = {"max_steps": 6, "save_steps": 3, "oversample": 1.5, "keep_surplus": True}
    whole = grpo(twin, tmp_path / "whole", letters, [], **rl)
    whole.train()
    grpo(twin, tmp_path / "half", letters, [], **{**rl, "max_steps": 3}).train()
    resumed = grpo(twin, tmp_path / "half", letters, [], **rl)
    resumed.train(resume_from_checkpoint=str(tmp_path / "half" / "checkpoint-3"))
    for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


@pytest.mark.parametrize(
    "other", ["model.cache_vision=false parallel.micro_tokens=512", "rl.variant.updates=2"]
)
def test_left_over_groups_are_refused_where_they_do_not_work(other: str) -> None:
    with pytest.raises(UserInputError, match=r"rl\.keep_surplus works neither with"):
        find_recipe("tiny", [f"rl.keep_surplus=true {other}"])
