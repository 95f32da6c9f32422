"""Published changes of GRPO: what they compute, by hand, and that each really trains."""

from __future__ import annotations

import re
from itertools import combinations
from math import log
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pelican.config.recipe import RlVariant
from pelican.engines.transformers import load_model
from pelican.engines.vision import PixelSource, Prepared
from pelican.records import (
    Answer,
    BoxAnswer,
    ChoiceAnswer,
    CountAnswer,
    DistanceAnswer,
    IntervalAnswer,
    OpenAnswer,
    OrderAnswer,
    PointsAnswer,
    Sample,
    Score,
    StepsAnswer,
    TextAnswer,
    YesNoAnswer,
)
from pelican.rewards.masks import encode_mask
from pelican.training.curve import RlCurve
from pelican.training.grpo import DeliberateGrpoTrainer, Group, StepRecord, largest_variance
from pelican.training.hints import add_hint, make_hint
from pelican.training.variants import (
    VariantGrpoTrainer,
    perception_terms,
    trainer_of,
)
from tests.data.factory import clip, picture
from tests.training.trainers import SAMPLES, grpo, letters, recipe, scored


@pytest.mark.parametrize(
    ("rewards", "kept", "places"),
    [
        ([0, 0, 0, 1, 1, 1], 4, [0, 1, 4, 5]),
        ([1, 0, 0, 0, 0, 0], 2, [0, 1]),  # the one that succeeded, and a failure
        ([1, 0, 0, 0, 0, 0], 4, [0, 1, 2, 3]),
        ([1, 1, 1, 1, 1, 0], 4, [0, 1, 2, 5]),
        ([0.5, 0.1, 0.9, 0.5], 2, [1, 2]),  # extremes, not the middle
        ([0.0, 0.4, 1.0], 2, [0, 2]),
        ([0.3, 0.3, 0.3], 2, [0, 1]),  # no choice is better than another
        ([0.2, 0.8], 2, [0, 1]),
    ],
)
def test_the_rollouts_that_vary_most_are_kept(
    rewards: list[float], kept: int, places: list[int]
) -> None:
    assert largest_variance(rewards, kept) == places


@given(
    st.lists(st.integers(0, 10), min_size=2, max_size=8).flatmap(
        lambda rewards: st.tuples(st.just(rewards), st.integers(2, len(rewards)))
    )
)
def test_no_other_choice_has_more_variance(case: tuple[list[int], int]) -> None:
    rewards, kept = case

    def spread(values: list[int]) -> int:
        """The variance times kept squared, exactly."""
        return kept * sum(v * v for v in values) - sum(values) ** 2

    chosen = largest_variance([r / 10 for r in rewards], kept)
    assert len(set(chosen)) == kept
    best = max(spread(list(c)) for c in combinations(rewards, kept))
    assert spread([rewards[i] for i in chosen]) == best


def test_advantages_are_normalised_over_what_is_kept() -> None:
    scores = [scored(v) for v in (0.0, 0.0, 0.0, 0.5, 1.0, 1.0)]
    group = Group(SAMPLES[0], None, [[i] for i in range(6)], scores)  # type: ignore[arg-type]
    half = group.down_sampled(4)
    assert half.completions == [[0], [1], [4], [5]]
    assert half.advantages() == pytest.approx([-1, -1, 1, 1], abs=1e-3)


def test_the_perception_terms_of_a_toy_distribution() -> None:
    """Two completions, of two tokens and of one; the last token of the second is padding."""
    logps = torch.tensor([[log(0.5), log(0.8)], [log(0.5), 0.0]])
    masked = torch.tensor([[log(0.25), log(0.8)], [log(1.0), -9.0]])
    terms = perception_terms(logps, masked, torch.tensor([[1, 1], [1, 0]]))
    # r - log r - 1 with r = 1/2 and r = 1, then r = 2.
    first = ((0.5 + log(2) - 1) + 0) / 2
    assert terms.kl.item() == pytest.approx((first + (2 - log(2) - 1)) / 2)
    assert terms.entropy.item() == pytest.approx(((log(2) + log(1.25)) / 2 + log(2)) / 2)
    assert terms.masked_entropy.item() == pytest.approx((log(4) + log(1.25)) / 4)
    loss = terms.loss(RlVariant(perception=0.02, entropy=0.05))
    expected = 0.05 * (terms.entropy + terms.masked_entropy) - 0.02 * terms.kl
    assert loss.item() == pytest.approx(expected.item())


def test_the_perception_loss_falls_as_the_image_matters_more() -> None:
    """Its gradient moves a sampled token's probability away from that without the image."""
    masked = torch.tensor([[log(0.3)]])
    for start, sign in ((0.5, -1.0), (0.2, 1.0)):
        logps = torch.tensor([[log(start)]], requires_grad=True)
        terms = perception_terms(logps, masked, torch.tensor([[1]]))
        terms.loss(RlVariant(perception=1.0)).backward()
        assert logps.grad is not None and logps.grad.sign().item() == sign


@given(st.floats(-30, 0), st.floats(-30, 0))
def test_the_estimate_is_never_negative_and_bounded(plain: float, masked: float) -> None:
    terms = perception_terms(torch.tensor([[plain]]), torch.tensor([[masked]]), torch.tensor([[1]]))
    assert -1e-6 <= terms.kl.item() <= 10


def test_masked_patches_are_black_and_masked_features_are_zero(twin: Path) -> None:
    model, encoder = load_model(recipe().model, twin)
    bank = encoder.images
    image = bank.prepare([picture(size=(112, 112))])[0]
    generator = torch.Generator().manual_seed(0)
    hidden = bank.masked(image, 0.6, generator)
    grid = torch.tensor([image.grid])
    plain, masked = (
        model.model.visual(i.rows, grid_thw=grid).pooler_output for i in (image, hidden)
    )
    zero = (masked == 0).all(1)
    assert 0 < zero.sum() < len(zero)
    assert torch.equal(masked[~zero], plain[~zero])

    pixels = PixelSource(encoder.processor.image_processor)
    sharp = pixels.prepare([picture(size=(112, 112))])[0]
    part = pixels.masked(sharp, 0.6, generator)
    changed = (part.rows != sharp.rows).any(1)
    assert 0 < changed.sum() < len(changed)
    nothing = pixels.prepare([_black()])[0]
    assert torch.allclose(part.rows[changed], nothing.rows[changed], atol=1e-5)
    assert _share(pixels, sharp) == pytest.approx(0.6, abs=0.2)


def _black() -> bytes:
    import io

    from PIL import Image

    out = io.BytesIO()
    Image.new("RGB", (112, 112)).save(out, "PNG")
    return out.getvalue()


def _share(source: PixelSource, image: Prepared) -> float:
    generator = torch.Generator().manual_seed(1)
    changed = (source.masked(image, 0.6, generator).rows != image.rows).any(1)
    return float(changed.float().mean())


def trained(twin: Path, work: Path, variant: RlVariant, **rl: Any) -> tuple[Any, list[StepRecord]]:
    steps: list[StepRecord] = []
    trainer = grpo(twin, work, letters, steps, **{"max_steps": 1, "variant": variant, **rl})
    trainer.args.logging_steps = 1
    trainer.train()
    assert all(torch.isfinite(p).all() for p in trainer.model.parameters())
    return trainer, steps


def logged(trainer: Any, name: str) -> list[float]:
    return [row[name] for row in trainer.state.log_history if name in row]


def weights(trainer: Any) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])


def test_a_recipe_without_a_variant_has_the_trainer_that_it_always_had() -> None:
    assert trainer_of(recipe().rl) is DeliberateGrpoTrainer
    assert trainer_of(recipe(variant=RlVariant(updates=2)).rl) is VariantGrpoTrainer


def test_more_rollouts_are_drawn_than_trained_on(twin: Path, tmp_path: Path) -> None:
    _, steps = trained(twin, tmp_path, RlVariant(rollouts=8), refill=0)
    for step in steps:
        assert [len(group.completions) for group in step.drawn] == [8] * 4
        assert [len(group.completions) for group in step.trained] == [4] * 4
        for whole, half in zip(step.drawn, step.trained, strict=False):
            if whole.has_variance:
                assert half.rewards.std() >= whole.rewards.std()


def test_the_perception_loss_changes_what_is_learnt(twin: Path, tmp_path: Path) -> None:
    plain = grpo(twin, tmp_path / "plain", letters, [], max_steps=1)
    plain.train()
    variant = RlVariant(perception=0.5, entropy=0.05)
    seen, _ = trained(twin, tmp_path / "seen", variant)
    through, _ = trained(
        twin, tmp_path / "through", variant.model_copy(update={"masked_gradients": True})
    )
    assert not torch.allclose(weights(plain), weights(seen), atol=1e-5)
    assert not torch.allclose(weights(seen), weights(through), atol=1e-5)
    assert logged(seen, "perception_kl")[0] > 0
    assert logged(seen, "masked_entropy")[0] > 0


def test_a_batch_of_rollouts_serves_several_updates_and_is_clipped(
    twin: Path, tmp_path: Path
) -> None:
    variant = RlVariant(updates=2)
    high: dict[float, Any] = {}
    for bound in (0.0001, 10.0):
        trainer, steps = trained(
            twin, tmp_path / str(bound), variant, max_steps=4, clip_low=0.0001, clip_high=bound
        )
        assert [step.step for step in steps] == [0, 2]
        clipped = logged(trainer, "clip_ratio/high_mean")
        assert clipped[0] == clipped[2] == 0  # the policy that drew them
        high[bound] = (clipped[1], weights(trainer))
    assert high[0.0001][0] > 0 == high[10.0][0]
    assert not torch.allclose(high[0.0001][1], high[10.0][1], atol=1e-6)


def test_several_updates_resume_where_they_stopped(twin: Path, tmp_path: Path) -> None:
    rl = {"max_steps": 4, "save_steps": 2, "variant": RlVariant(updates=2)}
    whole = grpo(twin, tmp_path / "whole", letters, [], **rl)
    whole.train()
    grpo(twin, tmp_path / "half", letters, [], **{**rl, "max_steps": 2}).train()
    resumed = grpo(twin, tmp_path / "half", letters, [], **rl)
    resumed.train(resume_from_checkpoint=str(tmp_path / "half" / "checkpoint-2"))
    assert torch.allclose(weights(whole), weights(resumed), atol=1e-6)


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (BoxAnswer(box=(60, 10, 80, 20)), "it is in the upper right."),
        (DistanceAnswer(value=20, unit="cm"), "it is between 12 and 32 cm."),
        (ChoiceAnswer(options=("a", "b"), answer="A"), None),
        (YesNoAnswer(value=True), None),
        (OrderAnswer(items=("cup", "box", "can")), "cup comes first."),
        (OrderAnswer(items=("cup", "box")), None),
        (IntervalAnswer(start=1, end=2), "it begins in the first half."),
        (IntervalAnswer(start=6, end=7), "it begins in the second half."),
        (StepsAnswer(steps=("open it", "lift it")), "the first step is: open it"),
        (StepsAnswer(steps=("open it",)), None),
        (TextAnswer(value="green"), "it begins with 'g'."),
        (OpenAnswer(reference="all of it"), None),
    ],
)
def test_a_hint_is_a_part_of_the_answer(answer: Answer, hint: str | None) -> None:
    asked = clip(1, (0.0, 8.0), answer=answer)
    assert make_hint(asked) == hint
    again = add_hint(asked)
    if hint is None:
        assert again is None
    else:
        assert again is not None
        assert again.question == f"{asked.question}\nHint: {hint}"
        assert (again.id, again.answer, again.images) == (asked.id, asked.answer, asked.images)


def test_a_hint_of_points_names_their_quarter() -> None:
    pixels = np.zeros((8, 12), np.uint8)
    pixels[6, 1] = 1
    asked = clip(1, (0.0, 8.0), answer=PointsAnswer(mask=encode_mask(pixels)))
    assert make_hint(asked) == "it is in the lower left."


@given(st.integers(0, 50), st.integers(0, 1000))
def test_a_hint_of_a_count_leaves_two_values(value: int, number: int) -> None:
    hint = make_hint(clip(number, (0.0, 8.0), answer=CountAnswer(value=value)))
    low, high = (int(word) for word in re.findall(r"\d+", hint or ""))
    assert low + 1 == high and value in (low, high) and low >= 0


@given(st.integers(3, 26), st.data())
def test_a_hint_of_a_choice_leaves_two_letters(options: int, data: st.DataObject) -> None:
    letter = chr(65 + data.draw(st.integers(0, options - 1)))
    answer = ChoiceAnswer(options=tuple("x" * options), answer=letter)
    hint = make_hint(clip(data.draw(st.integers(0, 99)), (0.0, 8.0), answer=answer))
    left = re.findall(r"\b[A-Z]\b", hint or "")
    assert len(set(left)) == 2 and letter in left and left == sorted(left)
    assert max(left) <= chr(64 + options)


def test_groups_that_fail_train_with_a_hint(twin: Path, tmp_path: Path) -> None:
    def helped(sample: Sample, completion: str, index: int, step: int) -> Score:
        """Only those who read a hint succeed, every other time."""
        return scored(float("Hint:" in sample.question and index % 2))

    steps: list[StepRecord] = []
    variant = RlVariant(hints=True)
    trainer = grpo(twin, tmp_path, helped, steps, max_steps=1, refill=0, variant=variant)
    trainer.train()
    step = steps[0]
    assert not any("Hint:" in group.sample.question for group in step.drawn)
    assert all("Hint: it is " in group.sample.question for group in step.trained)
    assert len(step.hinted) == len(step.drawn) == 4
    assert all(group.has_variance for group in step.trained)
    plain = {group.sample.id: len(group.prompt.ids) for group in step.drawn}
    assert all(len(group.prompt.ids) > plain[group.sample.id] for group in step.trained)

    curve = RlCurve(recipe(variant=variant).rl, lambda value: [value], lambda *_: None)
    curve.add(step)
    assert curve.totals["groups_hinted"] == curve.totals["groups_helped"] == 4
    assert curve.totals["completions"] == 32
    assert {row["success_rate"] for row in curve.rows} == {0.0}
