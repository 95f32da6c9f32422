"""The typed configuration of a metaloop: one tree, whose sections are in `pelican.sections`.

Imports neither torch nor kfp.
"""

from __future__ import annotations

import json

from pydantic import Field, model_validator

from pelican.digest import digest_of
from pelican.records import Phase
from pelican.sections.base import Section
from pelican.sections.generation import GenerationConfig
from pelican.sections.inputs import Data, Models
from pelican.sections.model import THINK_THEN_ANSWER, ModelConfig, ParallelConfig
from pelican.sections.placement import Resources
from pelican.sections.practice import FilterConfig, RlConfig, StopConfig
from pelican.sections.renewal import GateConfig, RetrainConfig
from pelican.sections.rl_variant import RlVariant
from pelican.sections.rollout import RolloutConfig, Sampling, VllmConfig
from pelican.sections.scoring import EvalConfig, JudgeConfig, RewardConfig
from pelican.sections.teaching import DistillConfig, SftConfig


class Recipe(Section):
    """A complete metaloop."""

    name: str = Field(pattern="^[a-z0-9][a-z0-9_]*$")
    loops: int = Field(3, ge=1, le=10, description="K [P]")
    seed: int = 0
    models: Models
    data: Data
    model: ModelConfig = ModelConfig()
    rollout: RolloutConfig = RolloutConfig()
    reward: RewardConfig = RewardConfig()
    filter: FilterConfig = FilterConfig()
    rl: RlConfig = RlConfig()
    distill: DistillConfig = DistillConfig()
    sft: SftConfig = SftConfig()
    eval: EvalConfig = EvalConfig()
    parallel: ParallelConfig = ParallelConfig()
    resources: Resources = Field(Resources(), description="of the pods; no part of the digest")
    retrain: RetrainConfig = RetrainConfig()
    gate: GateConfig = GateConfig()

    @property
    def last_phase(self) -> Phase:
        """The phase that ends a loop."""
        return Phase.SFT if self.sft.enabled else Phase.RL

    def obeys_gate_after(self, phase: Phase) -> bool:
        """False after RL if SFT follows, which may restore what RL lost: then it is only measured."""
        return phase in (Phase.BASE, self.last_phase)

    def can_stop_after(self, loop: int, phase: Phase) -> bool:
        """Whether a gate that says stop there keeps a run from another loop."""
        return loop < self.loops and self.obeys_gate_after(phase)

    def as_parameter(self) -> str:
        """The recipe for a pipeline: JSON in ASCII, because a backend's database may refuse the rest."""
        return json.dumps(self.model_dump(mode="json"), separators=(",", ":"))

    @model_validator(mode="after")
    def _some_phase(self) -> Recipe:
        if not (self.rl.enabled or self.sft.enabled):
            raise ValueError("neither rl.enabled nor sft.enabled: nothing would be trained")
        return self

    @model_validator(mode="after")
    def _fields_fit(self) -> Recipe:
        """What would end a stage hours later, or silently mean something else."""
        if self.rl.sampling.temperature == 0:
            raise ValueError(
                "rl.sampling.temperature is 0: a group's greedy completions are all equal; raise it"
            )
        for rows, total, name, processes in (
            ("rl.prompts_per_step", self.rl.prompts_per_step, "rl.processes", self.rl.processes),
            ("sft.batch_size", self.sft.batch_size, "sft.processes", self.sft.processes),
        ):
            if total % processes:
                raise ValueError(
                    f"{rows} = {total} does not divide by {name} = {processes}; choose a multiple"
                )
        rl = self.rl
        mistake = rl.variant.mistake(rl.group_size, rl.save_steps, self.parallel.at_scale)
        if mistake:
            raise ValueError(mistake)
        if self.model.cache_vision and not self.model.freeze_vision:
            raise ValueError(
                "model.cache_vision needs model.freeze_vision: a tower in training changes"
            )
        if self.model.cache_vision and self.model.dtype != "float32":
            # The model casts its images to its type, here their numbers in the cache: bfloat16
            # tells 256 of them apart.
            raise ValueError("model.cache_vision needs model.dtype=float32")
        if self.model.cache_vision and self.parallel.at_scale:
            raise ValueError(
                "model.cache_vision holds the images of one process's samples in memory; with"
                " parallel.strategy, micro_tokens or lora_rank set it to false"
            )
        if self.rl.generation.where == "server" and not self.parallel.at_scale:
            raise ValueError(
                "rl.generation.where=server needs the trainers at scale: set parallel.micro_tokens"
            )
        if self.rl.generation.where == "server" and self.rollout.engine == "replay":
            raise ValueError("rl.generation.where=server needs rollout.engine=vllm or transformers")
        if min(self.distill.ratio) < 0 or not any(self.distill.ratio):
            raise ValueError(
                f"distill.ratio is {self.distill.ratio}; give three numbers of 0 or more, not all 0"
            )
        return self

    def digest(self) -> str:
        """SHA-256 of the canonical JSON without `resources`, shortened to 16 hex digits."""
        return digest_of(self.model_dump(mode="json", exclude={"resources"}))


__all__ = [
    "THINK_THEN_ANSWER",
    "Data",
    "DistillConfig",
    "EvalConfig",
    "FilterConfig",
    "GateConfig",
    "GenerationConfig",
    "JudgeConfig",
    "ModelConfig",
    "Models",
    "ParallelConfig",
    "Recipe",
    "Resources",
    "RetrainConfig",
    "RewardConfig",
    "RlConfig",
    "RlVariant",
    "RolloutConfig",
    "Sampling",
    "SftConfig",
    "StopConfig",
    "VllmConfig",
]
