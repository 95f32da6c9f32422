"""The sections `reward` and `eval`: what an answer is worth, and when a loop went wrong."""

from __future__ import annotations

from pydantic import Field, model_validator

from pelican.sections.base import Section
from pelican.sections.rollout import Sampling


class JudgeConfig(Section):
    """Who judges free text."""

    endpoint: str = Field(description="OpenAI-compatible base URL, with /v1")
    model: str
    votes: int = Field(
        3, gt=0, description="replies whose majority decides; odd, so that none ties"
    )
    temperature: float = Field(0.7, ge=0)
    timeout_s: float = Field(60.0, gt=0, description="of one reply")
    workers: int = Field(8, gt=0, description="answers judged at a time")
    attempts: int = Field(6, gt=0, description="requests for one reply before the stage gives up")
    backoff_s: float = Field(1.0, ge=0, description="of the first pause between two attempts")
    in_training: bool = Field(False, description="also in the inner loop of RL, where it is slow")

    @model_validator(mode="after")
    def _odd(self) -> JudgeConfig:
        if self.votes % 2 == 0:
            raise ValueError(f"reward.judge.votes is {self.votes}; take an odd number")
        return self


class RewardConfig(Section):
    """R = format_weight * R_fmt + (1 - format_weight) * R_task."""

    format_weight: float = Field(0.1, ge=0, le=1, description="lambda_f [D]")
    success_threshold: float = Field(
        0.5, ge=0, le=1, description="R_task that counts as success [D]"
    )
    order_success_threshold: float = Field(
        0.75, ge=0, le=1, description="of orders and plans: right items in random order earn half"
    )
    max_think_chars: int = Field(8192, gt=0, description="longer thinking loses the format reward")
    flip: float = Field(
        0.0, ge=0, le=1, description="share of the RL phase's rewards flipped (ablation)"
    )
    judge: JudgeConfig | None = Field(None, description="of free text; none: such answers score 0")

    def threshold(self, kind: str) -> float:
        """R_task that counts as success for answers of this kind."""
        ordered = kind in ("order", "steps")
        return self.order_success_threshold if ordered else self.success_threshold

    @property
    def honest(self) -> RewardConfig:
        """Without flips: they ablate what RL learns from, not what is taught or measured."""
        return self.model_copy(update={"flip": 0.0})


class EvalConfig(Section):
    """Held-out evaluation and the gate."""

    sampling: Sampling = Sampling(temperature=0.0)
    bootstrap: int = Field(2000, gt=0, description="resamples of a confidence interval")
    max_general_drop: float = Field(3.0, ge=0, description="points the general suite may lose")
    max_embodied_drop: float = Field(3.0, ge=0, description="points a loop may lose before we stop")
