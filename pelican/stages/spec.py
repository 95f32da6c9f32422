"""What a stage is told: its name, its place in a run, its inputs and the recipe."""

from __future__ import annotations

from typing import Literal, get_args

from pydantic import Field

from pelican.frozen import Frozen
from pelican.recipe import Recipe
from pelican.records import Phase
from pelican.sections.scoring import RewardConfig

StageName = Literal["rollout", "reward", "filter", "train-rl", "distill", "train-sft", "eval"]
STAGES: tuple[StageName, ...] = get_args(StageName)

# Stages whose processes are replicas: see pelican.stages.replicas.
REPLICATED: frozenset[StageName] = frozenset({"rollout"})


class StageSpec(Frozen):
    """All that a stage needs to know: `pelican stage NAME --spec FILE`.

    `inputs` maps a name to a prefix of the store (another stage's output) or to a path of data or
    a checkpoint; `output` is the prefix that the stage owns.
    """

    stage: StageName
    store: str = Field(description="URI of the store")
    run: str
    loop: int = Field(ge=0)
    phase: Phase
    output: str
    inputs: dict[str, str]
    recipe: Recipe

    @property
    def rewards(self) -> RewardConfig:
        """How this stage scores. Flips are in what RL learns from, not in what is taught or measured.

        So SFT's weak set is mined from rewards as they are.
        """
        flips = self.stage == "train-rl" or (self.stage == "reward" and self.phase is Phase.RL)
        return self.recipe.reward if flips else self.recipe.reward.honest
