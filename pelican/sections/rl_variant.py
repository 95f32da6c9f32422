"""The recipe's section `rl.variant`: published changes of GRPO, each off by default.

What each is, and its source: `docs/experiments.md`.
"""

from __future__ import annotations

from pydantic import Field

from pelican.sections.base import Section


class RlVariant(Section):
    """Without a change it is no part of a recipe's digest: what was trained before stays valid."""

    updates: int = Field(
        1,
        ge=1,
        le=8,
        description="optimiser steps per batch of rollouts; clipping acts from the 2nd",
    )
    rollouts: int | None = Field(
        None, gt=1, description="drawn per group; the group_size of most variance are trained on"
    )
    perception: float = Field(
        0.0, ge=0, description="weight of the KL between seeing the image and seeing it masked"
    )
    entropy: float = Field(
        0.0, ge=0, description="weight of both entropies, with the image and with it masked"
    )
    masked_share: float = Field(0.6, gt=0, le=1, description="of an image's patches")
    masked_gradients: bool = Field(False, description="also through the pass with masked images")
    hints: bool = Field(False, description="groups that all fail are drawn again with a hint")

    @property
    def off(self) -> bool:
        """Whether this is GRPO as it is."""
        return self == RlVariant()

    def drawn(self, group_size: int) -> int:
        """Completions of a group before it is down-sampled."""
        return self.rollouts or group_size

    def mistake(self, group_size: int, save_steps: int, at_scale: bool) -> str | None:
        """Why the section doesn't fit the rest of the recipe, as a sentence; None if it does."""
        if self.drawn(group_size) < group_size:
            return (
                f"rl.variant.rollouts = {self.rollouts} is less than rl.group_size = {group_size}:"
                " more are drawn than trained on"
            )
        if save_steps % self.updates:
            return (
                f"rl.save_steps = {save_steps} does not divide by rl.variant.updates ="
                f" {self.updates}: a training would resume without its rollouts; choose a multiple"
            )
        if self.entropy and not self.perception:
            return (
                "rl.variant.entropy regularises rl.variant.perception, which is 0; set it as well"
            )
        if at_scale and self.model_copy(update={"rollouts": None}) != RlVariant():
            return (
                "of rl.variant only rollouts works with parallel.strategy, micro_tokens or"
                " lora_rank; set those aside, or train without the variant"
            )
        return None
