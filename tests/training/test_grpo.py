"""GRPO: advantages, refill, resuming, and that it raises the reward it is given."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pelican.records import Sample, Score
from pelican.training.grpo import DeliberateGrpoTrainer, Group, Rollouts, StepRecord, deal
from tests.training.trainers import SAMPLES, grpo, letters, scored


def mean_reward(record: StepRecord) -> float:
    return sum(float(group.rewards.mean()) for group in record.drawn) / len(record.drawn)


def test_grpo_raises_the_reward_it_is_given(twin: Path, tmp_path: Path) -> None:
    steps: list[StepRecord] = []
    grpo(twin, tmp_path, letters, steps, max_steps=30, learning_rate=2e-2).train()
    first, last = steps[:5], steps[-5:]
    assert sum(map(mean_reward, last)) > 1.5 * sum(map(mean_reward, first))


def test_advantages_are_normalised_within_the_group() -> None:
    group = Group(SAMPLES[0], None, [[1]] * 4, [scored(v) for v in (0.0, 0.0, 1.0, 1.0)])  # type: ignore[arg-type]
    assert group.has_variance
    assert group.advantages() == pytest.approx([-1, -1, 1, 1], abs=1e-3)
    flat = Group(SAMPLES[0], None, [[1]] * 4, [scored(0.3)] * 4)  # type: ignore[arg-type]
    assert not flat.has_variance
    assert flat.advantages() == pytest.approx([0, 0, 0, 0])


def test_groups_without_variance_are_replaced(twin: Path, tmp_path: Path) -> None:
    def hard_for_even(sample: Sample, completion: str, index: int, step: int) -> Score:
        odd = int(sample.id[1:]) % 2
        return scored(float(odd and index % 2))

    steps: list[StepRecord] = []
    grpo(twin, tmp_path, hard_for_even, steps, max_steps=3, refill=8).train()
    for step in steps:
        assert len(step.trained) == 4
        assert all(group.has_variance for group in step.trained)
        assert len(step.drawn) > 4


def test_more_groups_are_drawn_at_once_than_wanted(twin: Path, tmp_path: Path) -> None:
    steps: list[StepRecord] = []
    grpo(twin, tmp_path, letters, steps, max_steps=2, refill=0, oversample=1.5).train()
    assert [(len(step.trained), len(step.drawn)) for step in steps] == [(4, 6)] * 2


def test_a_refill_draws_what_the_step_has_not_seen_before_it_repeats(
    twin: Path, tmp_path: Path
) -> None:
    others = grpo(twin, tmp_path, letters, []).replacements([0, 2, 2], 0)
    assert {next(others) for _ in range(4)} == {1, 3, 4, 5}
    assert {next(others) for _ in range(6)} == set(range(6))


def test_a_buffer_without_any_variance_costs_refill_times_and_goes_on(
    twin: Path, tmp_path: Path
) -> None:
    steps: list[StepRecord] = []
    trainer = grpo(twin, tmp_path, lambda *_: scored(0.0), steps, max_steps=2, refill=2, kl=0.1)
    trainer.train()
    assert [len(step.drawn) for step in steps] == [12, 12]
    assert all(torch.isfinite(p).all() for p in trainer.model.parameters())


def test_log_probabilities_by_length_are_those_of_one_padded_batch(
    twin: Path, tmp_path: Path
) -> None:
    steps: list[StepRecord] = []
    trainer = grpo(twin, tmp_path, letters, steps, max_steps=1, kl=0.1)
    batch = trainer._tensors(trainer.draw([0, 5, 1, 5]).trained)
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)
    images = {k: batch.get(k) for k in ("pixel_values", "image_grid_thw", "num_images")}
    types = batch["mm_token_type_ids"]
    kept = batch["completion_ids"].size(1)
    parent = super(DeliberateGrpoTrainer, trainer).token_logps
    with torch.no_grad():
        ours, _, _ = trainer.token_logps(
            trainer.model, ids, mask, kept, mm_token_type_ids=types, **images
        )
        theirs, _, _ = parent(trainer.model, ids, mask, kept, mm_token_type_ids=types, **images)
    assert torch.allclose(ours, theirs, atol=1e-4)
    # Before the first step the policy is its own reference.
    assert torch.allclose(batch["ref_per_token_logps"], ours, atol=1e-4)


def test_a_resumed_training_ends_where_an_uninterrupted_one_does(
    twin: Path, tmp_path: Path
) -> None:
    rl = {"max_steps": 6, "save_steps": 3, "kl": 0.05}
    whole = grpo(twin, tmp_path / "whole", letters, [], **rl)
    whole.train()
    grpo(twin, tmp_path / "half", letters, [], **{**rl, "max_steps": 3}).train()
    resumed = grpo(twin, tmp_path / "half", letters, [], **rl)
    resumed.train(resume_from_checkpoint=str(tmp_path / "half" / "checkpoint-3"))
    for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_ranks_get_as_many_groups_and_about_as_many_tokens() -> None:
    groups = [
        Rollouts(n, n, [[0] * length], [], None, hinted=False)
        for n, length in enumerate((6, 9, 8, 7))
    ]
    shares = [[one.tokens for one in deal(groups, rank, 2)] for rank in (0, 1)]
    assert shares == [[9, 6], [8, 7]]


def test_a_group_of_another_rank_has_the_prompt_that_it_was_drawn_with(
    twin: Path, tmp_path: Path
) -> None:
    trainer = grpo(twin, tmp_path, letters, [])
    for hinted in (False, True):
        group = trainer._rebuild(Rollouts(7, 2, [[1, 2]], [scored(1.0)], None, hinted))
        assert group.sample.id == SAMPLES[2].id and group.completions == [[1, 2]]
        assert ("Hint: " in group.sample.question) == hinted
        assert group.prompt.ids == trainer._engine.encoder.prompt(group.sample).ids
