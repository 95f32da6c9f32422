"""Variants of GRPO: hints, the perception loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pelican.config.recipe import RlConfig, RlVariant
from pelican.engines.base import rollout_seed
from pelican.engines.transformers import Encoded
from pelican.training.grpo import DeliberateGrpoTrainer, Group

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

    def _tensors(self, groups: list[Group]) -> dict[str, Any]:
        batch = super()._tensors(groups)
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


class VariantGrpoTrainer(PerceptionLoss):
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
