"""The sections `distill` and `sft`: what a teacher answers, and learning it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pelican.sections.base import Section
from pelican.sections.rollout import Sampling


class DistillConfig(Section):
    """D_SFT = D_weak + D_assoc + D_gen [P]."""

    tries: int = Field(4, gt=0, description="answers the teacher may give")
    sampling: Sampling = Sampling(temperature=0.7)
    ratio: tuple[float, float, float] = Field(
        (1.0, 1.0, 1.0), description="weak : assoc : general [D]"
    )
    neighbours: int = Field(8, gt=0, description="related samples sought per weak sample")
    embedding: Literal["text", "vision"] = Field(
        "text", description="nearness: words of the question, or with the policy's image features"
    )
    max_rows: int | None = Field(
        None, gt=0, description="rows of D_SFT; none: what the ratio gives"
    )
    endpoint: str | None = Field(None, description="OpenAI-compatible base URL; none: in process")
    only_replay: bool = Field(False, description="SFT on replay alone (control)")


class SftConfig(Section):
    """Supervised fine-tuning on the assistant's tokens."""

    enabled: bool = True
    learning_rate: float = Field(2e-6, gt=0, description="full fine-tuning [D]")
    warmup_share: float = Field(0.05, ge=0, lt=1)
    batch_size: int = Field(32, gt=0)
    epochs: float = Field(1.0, gt=0)
    max_steps: int | None = Field(None, gt=0)
    save_steps: int = Field(50, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    processes: int = Field(1, gt=0)
    threads: int = Field(1, gt=0, description="CPU threads per process")
    seed: int = 0
