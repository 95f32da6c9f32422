"""Variants of GRPO: hints, the perception loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pelican.config.recipe import RlConfig, RlVariant
from pelican.engines.base import rollout_seed
from pelican.engines.transformers import Encoded
from pelican.records import (
    BoxAnswer,
    ChoiceAnswer,
    CountAnswer,
    DistanceAnswer,
    IntervalAnswer,
    OrderAnswer,
    PointsAnswer,
    Sample,
    StepsAnswer,
    TextAnswer,
)
from pelican.rewards.masks import decode_mask
from pelican.training.grpo import DeliberateGrpoTrainer, Group

# Hints for what the policy never solves: groups that all fail are drawn again with a hint.
#
# After SAGE, "Self-Hinting Language Models Enhance Reinforcement Learning" (arXiv 2602.03143): a hint
# made from the reference goes into the prompt of questions without a right rollout, the rewards stay,
# and what is trained is the policy under the hinted prompt; it is evaluated without. There the policy
# writes its hints from a reference solution; here a rule makes them from the reference answer.


def hint_of(sample: Sample) -> str | None:
    """A part of the answer in words; None where any part would be all of it, or a judge decides."""
    make = _HINTS.get(type(sample.answer))
    found: str | None = make(sample, sample.answer) if make else None
    return found


def hinted(sample: Sample) -> Sample | None:
    """The sample with a hint after its question."""
    hint = hint_of(sample)
    if hint is None:
        return None
    *before, last = sample.turns
    asked = last.model_copy(update={"text": f"{last.text}\nHint: {hint}"})
    return sample.model_copy(update={"turns": (*before, asked)})


def _place(x: float, y: float) -> str:
    """Of shares of the image's width and height."""
    return f"it is in the {'upper' if y < 0.5 else 'lower'} {'left' if x < 0.5 else 'right'}."


def _points(sample: Sample, answer: PointsAnswer) -> str | None:
    pixels = decode_mask(answer.mask)
    rows, columns = np.nonzero(pixels)
    if not len(rows):
        return None
    height, width = pixels.shape
    return _place(float(columns.mean() + 0.5) / width, float(rows.mean() + 0.5) / height)


def _box(sample: Sample, answer: BoxAnswer) -> str:
    x0, y0, x1, y1 = answer.box
    return _place((x0 + x1) / 2 / answer.scale, (y0 + y1) / 2 / answer.scale)


def _count(sample: Sample, answer: CountAnswer) -> str:
    """The value and a neighbour; which one says nothing about the value."""
    above = rollout_seed(0, sample.id, 0) % 2 == 0 or answer.value == 0
    low = answer.value if above else answer.value - 1
    return f"it is {low} or {low + 1}."


def _choice(sample: Sample, answer: ChoiceAnswer) -> str | None:
    """The right letter and a wrong one."""
    wrong = [chr(65 + i) for i in range(len(answer.options)) if chr(65 + i) != answer.answer]
    if len(wrong) < 2:
        return None
    other = wrong[rollout_seed(0, sample.id, 0) % len(wrong)]
    first, second = sorted((answer.answer, other))
    return f"it is {first} or {second}."


def _distance(sample: Sample, answer: DistanceAnswer) -> str:
    low, high = (float(f"{answer.value * share:.2g}") for share in (0.6, 1.6))
    return f"it is between {low:g} and {high:g} {answer.unit}."


def _interval(sample: Sample, answer: IntervalAnswer) -> str:
    middle = (sample.times_s[0] + sample.times_s[-1]) / 2
    return f"it begins in the {'first' if answer.start < middle else 'second'} half."


def _order(sample: Sample, answer: OrderAnswer) -> str | None:
    return f"{answer.items[0]} comes first." if len(answer.items) > 2 else None


def _steps(sample: Sample, answer: StepsAnswer) -> str | None:
    return f"the first step is: {answer.steps[0]}" if len(answer.steps) > 1 else None


def _text(sample: Sample, answer: TextAnswer) -> str | None:
    return f"it begins with {answer.value[0]!r}." if len(answer.value) > 2 else None


_HINTS: dict[type, Callable[[Sample, Any], str | None]] = {
    PointsAnswer: _points,
    BoxAnswer: _box,
    CountAnswer: _count,
    ChoiceAnswer: _choice,
    DistanceAnswer: _distance,
    IntervalAnswer: _interval,
    OrderAnswer: _order,
    StepsAnswer: _steps,
    TextAnswer: _text,
}


class HintedRollouts(DeliberateGrpoTrainer):
    """DeliberateGrpoTrainer that draws groups without any success once more, with a hint."""

    def _helped(self, groups: Sequence[Group], attempt: int) -> list[Group]:
        """In the place of a failed group the hinted one, if its rewards vary."""
        helped = list(groups)
        if not self._config.variant.hints:
            return helped
        asked = {
            place: sample
            for place, group in enumerate(groups)
            if not any(score.success for score in group.scores)
            and (sample := hinted(group.sample)) is not None
        }
        if not asked:
            return helped
        samples = list(asked.values())
        again = self._roll_out_samples(samples, self._seeds(samples, f"{attempt}/hint"))
        for place, group in zip(asked, again, strict=True):
            if group.has_variance:
                helped[place] = group
        self._hinted += again
        return helped


# PAPO's implicit perception loss: answers should change when the image is hidden.
#
# "Perception-Aware Policy Optimization for Multimodal Reasoning" (arXiv 2507.06448) subtracts from
# GRPO's loss the KL divergence between the policy with the image and with a masked one, and adds both
# entropies (its double entropy loss), without which the KL grows without bound. Signs, the estimators
# and that no gradient flows through the masked pass are those of the authors' published trainer;
# `masked_gradients` is their switch for the other way.

_FAR = 20.0  # of two log-probabilities; beyond it exp would overflow
_CAP = 10.0  # of one token's estimate


@dataclass(frozen=True)
class Terms:
    """Means over the tokens of a completion, then over completions: nats, scalars."""

    kl: Tensor
    entropy: Tensor
    masked_entropy: Tensor

    def loss(self, variant: RlVariant) -> Tensor:
        """What is added to GRPO's loss."""
        entropies = self.entropy + self.masked_entropy
        return variant.entropy * entropies - variant.perception * self.kl


def perception_terms(logps: Tensor, masked_logps: Tensor, mask: Tensor) -> Terms:
    """From log-probabilities of the sampled tokens, [rows, tokens] each; `mask`: tokens that count.

    The KL is Schulman's estimator r - log r - 1 with r = masked / plain, which is never negative;
    an entropy is the mean of -log p over the sampled tokens.
    """
    ratio = (masked_logps - logps).clamp(-_FAR, _FAR)
    kl = (ratio.exp() - ratio - 1).clamp(max=_CAP)

    def mean(values: Tensor) -> Tensor:
        return ((values * mask).sum(-1) / mask.sum(-1).clamp(min=1)).mean()

    return Terms(mean(kl), mean(-logps), mean(-masked_logps))


class PerceptionLoss(DeliberateGrpoTrainer):
    """DeliberateGrpoTrainer with the perception loss; one mask per prompt and step."""

    _logps: Tensor

    def _batch(self, groups: list[Group]) -> dict[str, Any]:
        batch = super()._batch(groups)
        if self._config.variant.perception:
            masked = [self._masked(group, place) for place, group in enumerate(groups)]
            rows = [m for m, g in zip(masked, groups, strict=True) for _ in g.completions]
            batch["masked_pixel_values"] = self._images(rows).get("pixel_values")
        return batch

    def _masked(self, group: Group, place: int) -> Encoded:
        rank, step = self.accelerator.process_index, self.state.global_step
        seed = rollout_seed(self.args.seed, f"mask/{step}/{rank}/{group.sample.id}", place)
        generator = torch.Generator().manual_seed(seed)
        hide, share = self._engine.encoder.images.masked, self._config.variant.masked_share
        images = [hide(image, share, generator) for image in group.prompt.images]
        return Encoded(group.prompt.ids, images)

    def token_logps(self, *args: Any, **kwargs: Any) -> Any:
        """The parent's; the log-probabilities that the loss was made of are remembered."""
        found = super().token_logps(*args, **kwargs)
        if torch.is_grad_enabled():
            self._logps = found[0]
        return found

    def grpo_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        loss: Tensor = super().grpo_loss(model, inputs)
        variant, hidden = self._config.variant, inputs.get("masked_pixel_values")
        if hidden is None:
            return loss
        plain = self._logps
        with torch.set_grad_enabled(variant.masked_gradients):
            masked, _, _ = self.token_logps(
                model,
                torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1),
                torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1),
                inputs["completion_ids"].size(1),
                pixel_values=hidden,
                image_grid_thw=inputs["image_grid_thw"],
                num_images=inputs["num_images"],
                mm_token_type_ids=inputs["mm_token_type_ids"],
            )
        self._logps = plain
        terms = perception_terms(plain, masked, inputs["completion_mask"])
        self._log_mean("perception_kl", terms.kl)
        self._log_mean("masked_entropy", terms.masked_entropy)
        return loss + terms.loss(variant)

    def _log_mean(self, name: str, value: Tensor) -> None:
        self.record_metric(name, self.accelerator.gather(value.detach()).mean().item())


# The trainer of recipes with `rl.variant`: several updates per batch, perception loss, hints.


class VariantGrpoTrainer(PerceptionLoss, HintedRollouts):
    """All of `rl.variant`. A batch of rollouts serves `updates` steps, so that the ratio leaves 1.

    Only then does the clipping of the ratio act: "clip-higher" of DAPO (arXiv 2503.14476, section
    3.1) bounds it by 1 - clip_low and 1 + clip_high.
    """

    _batch_in_use: dict[str, Any] | None = None

    def next_batch(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        if self._batch_in_use is None or self.state.global_step % self._config.variant.updates == 0:
            self._batch_in_use = super().next_batch(rows)
        return self._batch_in_use

    def grpo_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        loss: Tensor = super().grpo_loss(model, inputs)
        # Of the policy that drew the rollouts: that of the batch's first update.
        inputs.setdefault("old_per_token_logps", self._logps.detach())
        return loss


def trainer_of(config: RlConfig) -> type[DeliberateGrpoTrainer]:
    """The trainer for a recipe that trains without sharding."""
    return DeliberateGrpoTrainer if config.variant.off else VariantGrpoTrainer
