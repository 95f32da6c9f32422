"""Where RL's completions are made: a section of the recipe. `docs/training-at-scale.md`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from pelican.sections.base import Section


class GenerationConfig(Section):
    """A copy of the policy in each process, or servers that get its weights after each step.

    Which servers: PELICAN_GENERATION_SERVERS and _FOLDER, else one is started beside the training.
    """

    where: Literal["process", "server"] = "process"
    tolerance: float = Field(
        0.05, gt=0, description="mean difference of log-probabilities after a transfer [D]"
    )
    max_staleness: int = Field(
        0, ge=0, description="steps that weights may be old; above 0 drawing overlaps training"
    )
    importance_cap: float | None = Field(
        2.0, gt=0, description="of policy : sampler, by token; none: no correction [D]"
    )

    @model_validator(mode="after")
    def _fits(self) -> GenerationConfig:
        if self.where == "process" and self.max_staleness:
            raise ValueError("rl.generation.max_staleness needs rl.generation.where=server")
        return self
