"""The sections `filter` and `rl`: which samples are practised, and GRPO on them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pelican.sections.base import Section
from pelican.sections.generation import GenerationConfig
from pelican.sections.rl_variant import RlVariant
from pelican.sections.rollout import Sampling


class FilterConfig(Section):
    """The difficulty-aware buffer."""

    strategy: Literal["difficulty", "random"] = "difficulty"
    intractable_share: float = Field(0.1, ge=0, lt=1, description="cap of SR = 0 in the buffer [D]")
    buffer_size: int | None = Field(None, gt=0, description="samples kept; none: all that qualify")


class StopConfig(Section):
    """When the RL phase ends: mean over tasks of TS_i >= threshold [P]."""

    threshold: float = Field(0.7, ge=0, le=1, description="[P]")
    delta: float = Field(1.0, gt=0, description="scale of the rate of change [D]")
    ema: float = Field(0.5, gt=0, le=1, description="weight of the newest window [D]")
    window: int = Field(10, gt=0, description="optimiser steps per window [D]")


class RlConfig(Section):
    """GRPO."""

    enabled: bool = True
    group_size: int = Field(8, gt=1, description="G [D]")
    prompts_per_step: int = Field(32, gt=0, description="groups of one optimiser step")
    learning_rate: float = Field(1e-6, gt=0, description="[D]")
    warmup_steps: int = Field(0, ge=0)
    lr_scheduler: Literal["constant_with_warmup", "linear", "cosine"] = Field(
        "constant_with_warmup", description="the others end at 0 with max_steps [D]"
    )
    kl: float = Field(1e-2, ge=0, description="coefficient against the phase's start [D]")
    clip_low: float = Field(0.2, gt=0, description="[D]")
    clip_high: float = Field(0.28, gt=0, description="[D]")
    max_grad_norm: float = Field(1.0, gt=0)
    refill: int = Field(3, ge=0, description="times a step refills groups without variance [D]")
    oversample: float = Field(
        1.0, ge=1, description="groups drawn per group wanted: some turn out without variance [D]"
    )
    min_steps: int = Field(20, ge=0)
    max_steps: int = Field(400, gt=0)
    save_steps: int = Field(50, gt=0)
    sampling: Sampling = Sampling()
    stop: StopConfig = StopConfig()
    generation: GenerationConfig = GenerationConfig()
    processes: int = Field(1, gt=0)
    threads: int = Field(1, gt=0, description="CPU threads per process")
    seed: int = 0
    variant: RlVariant = Field(RlVariant(), exclude_if=lambda variant: variant.off)
