"""Where RL's completions are made: a section of the recipe. `docs/training-at-scale.md`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from pelican.section import Section


class GenerationConfig(Section):
    """A copy of the policy in each process, or servers that get its weights after each step."""

    where: Literal["process", "server"] = "process"
    servers: tuple[str, ...] = Field(
        (), description="URLs of servers that run; none: one is started beside the first process"
    )
    folder: str | None = Field(
        None, description="where weights are left for `servers`: a volume that all have mounted"
    )
    tolerance: float = Field(
        0.05, gt=0, description="mean difference of log-probabilities after a transfer [D]"
    )
    max_staleness: int = Field(
        0, ge=0, description="steps that weights may be old; above 0 drawing overlaps training"
    )
    importance_cap: float | None = Field(
        2.0, gt=0, description="of policy : sampler, by token; none: no correction [D]"
    )

    @field_validator("servers", mode="before")
    @classmethod
    def _separated(cls, value: object) -> object:
        """URLs are given with commas between them where a list can't be."""
        return tuple(value.split(",")) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _fits(self) -> GenerationConfig:
        if self.where == "process":
            if self.servers or self.max_staleness:
                raise ValueError(
                    "rl.generation.servers and max_staleness need rl.generation.where=server"
                )
        elif self.servers and not self.folder:
            raise ValueError(
                "rl.generation.servers need rl.generation.folder, which they and the trainer read"
            )
        return self
