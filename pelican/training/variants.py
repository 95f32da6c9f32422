"""The trainer of recipes with `rl.variant`: several updates per batch, perception loss, hints."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from pelican.recipe import RlConfig
from pelican.training.grpo import DeliberateGrpoTrainer
from pelican.training.hints import HintedRollouts
from pelican.training.perception import PerceptionLoss


class VariantGrpoTrainer(PerceptionLoss, HintedRollouts):
    """All of `rl.variant`. A batch of rollouts serves `updates` steps, so that the ratio leaves 1.

    Only then does the clipping of the ratio act: "clip-higher" of DAPO (arXiv 2503.14476, section
    3.1) bounds it by 1 - clip_low and 1 + clip_high.
    """

    _batch_in_use: dict[str, Any] | None = None

    def _prepare_inputs(self, generation_batch: Any) -> dict[str, Any]:
        if self._batch_in_use is None or self.state.global_step % self._config.variant.updates == 0:
            self._batch_in_use = super()._prepare_inputs(generation_batch)
        return self._batch_in_use

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        loss: Tensor = super()._compute_loss(model, inputs)
        # Of the policy that drew the rollouts: that of the batch's first update.
        inputs.setdefault("old_per_token_logps", self._logps.detach())
        return loss


def trainer_of(config: RlConfig) -> type[DeliberateGrpoTrainer]:
    """The trainer for a recipe that trains without sharding."""
    return DeliberateGrpoTrainer if config.variant.off else VariantGrpoTrainer
