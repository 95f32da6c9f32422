"""Variants of GRPO: the perception loss, several updates per batch (hints: `hints.py`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pelican.config.recipe import RlConfig, RlVariant
from pelican.engines.base import rollout_seed
from pelican.engines.transformers import Encoded
from pelican.training.grpo import DeliberateGrpoTrainer, Group

# PAPO's implicit perception loss: the answer should change when the image is hidden.
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
    """The terms of completions from their tokens' log-probabilities.

    The KL is Schulman's estimator r - log r - 1 with r = masked / plain, which is never negative;
    an entropy is the mean of -log p over the sampled tokens.

    Args:
        logps: of the sampled tokens, [rows, tokens].
        masked_logps: of the same tokens with images masked, [rows, tokens].
        mask: 1 where a token counts, 0 at padding, [rows, tokens].
    """
    ratio = (masked_logps - logps).clamp(-_FAR, _FAR)
    kl = (ratio.exp() - ratio - 1).clamp(max=_CAP)

    def mean(values: Tensor) -> Tensor:
        return ((values * mask).sum(-1) / mask.sum(-1).clamp(min=1)).mean()

    return Terms(mean(kl), mean(-logps), mean(-masked_logps))


class VariantGrpoTrainer(DeliberateGrpoTrainer):
    """DeliberateGrpoTrainer with the perception loss, and with several updates per batch.

    With `rl.variant.updates` above 1 a batch of completions serves several optimiser steps, so that the
    ratio of the policy to the one that drew them leaves 1. Only then does its clipping act: "clip-higher"
    of DAPO (arXiv 2503.14476, section 3.1) bounds it by 1 - clip_low and 1 + clip_high.
    """

    _batch: dict[str, Any] | None = None  # in use
    _logps: Tensor  # [rows, width], of the newest pass that gradients flow through

    def next_batch(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        if self._batch is None or self.state.global_step % self._config.variant.updates == 0:
            self._batch = super().next_batch(rows)
        return self._batch

    def _tensors(self, groups: list[Group]) -> dict[str, Any]:
        """The parent's; for the perception loss also images with patches hidden."""
        batch = super()._tensors(groups)
        if self._config.variant.perception:
            masked = [self._mask(group, place) for place, group in enumerate(groups)]
            prompts = [m for m, g in zip(masked, groups, strict=True) for _ in g.completions]
            batch["masked_pixel_values"] = self._images(prompts).get("pixel_values")
        return batch

    def _mask(self, group: Group, place: int) -> Encoded:
        """The group's prompt with patches of its images hidden: one mask per prompt and step."""
        rank, step = self.accelerator.process_index, self.state.global_step
        seed = rollout_seed(self.args.seed, f"mask/{step}/{rank}/{group.sample.id}", place)
        generator = torch.Generator().manual_seed(seed)
        hide, share = self._engine.encoder.images.masked, self._config.variant.masked_share
        images = [hide(image, share, generator) for image in group.prompt.images]
        return Encoded(group.prompt.ids, images)

    def token_logps(self, *args: Any, **kwargs: Any) -> Any:
        """The parent's; those that the loss is made of are kept for `grpo_loss`."""
        found = super().token_logps(*args, **kwargs)
        if torch.is_grad_enabled():
            self._logps = found[0]
        return found

    def grpo_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        loss = super().grpo_loss(model, inputs)
        logps = self._logps
        if inputs.get("masked_pixel_values") is not None:
            loss = loss + self._perception_loss(model, inputs, logps)
        # Of the policy that drew the completions, which is that of the batch's first update.
        inputs.setdefault("old_per_token_logps", logps.detach())
        return loss

    def _perception_loss(self, model: Any, inputs: dict[str, Any], logps: Tensor) -> Tensor:
        """A scalar; `logps` [rows, width] are those with the images."""
        variant = self._config.variant
        images = {"pixel_values": inputs["masked_pixel_values"]}
        with torch.set_grad_enabled(variant.masked_gradients):
            masked = self._completion_logps(model, {**inputs, **images})
        mask = inputs["completion_mask"] * inputs.get("tool_mask", 1)
        terms = perception_terms(logps, masked, mask)
        for name, value in (
            ("perception_kl", terms.kl),
            ("masked_entropy", terms.masked_entropy),
        ):
            self.record_metric(name, self.accelerator.gather(value.detach()).mean().item())
        return terms.loss(variant)


def trainer_of(config: RlConfig) -> type[DeliberateGrpoTrainer]:
    """The trainer of a recipe that trains neither sharded nor by tokens."""
    return DeliberateGrpoTrainer if config.variant.off else VariantGrpoTrainer
