"""The sections `model` and `parallel`: how the policy is loaded, and spread over processes to train."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pelican.sections.base import Section

# Asks for the format that the reward wants, of a model that was not trained on it.
THINK_THEN_ANSWER = (
    "Think step by step inside <think> and </think>, then give only the final answer inside"
    " <answer> and </answer>."
)


class ModelConfig(Section):
    """How the policy is loaded and what of it is trained."""

    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    system_prompt: str | None = Field(
        None, description="put before every conversation, the teacher's too"
    )
    max_images: int = Field(64, gt=0, description="of one conversation, for vLLM")
    gradient_checkpointing: bool = True
    freeze_vision: bool = False
    cache_vision: bool = Field(False, description="keep the frozen tower's features in memory")


class ParallelConfig(Section):
    """How training is spread over processes: `docs/training-at-scale.md`."""

    strategy: Literal["ddp", "fsdp2", "zero3"] = Field(
        "ddp", description="copies of the model; or sharded, by torch or by DeepSpeed"
    )
    micro_tokens: int | None = Field(
        None,
        gt=0,
        description="tokens of a pass, padding too; none: a process's whole batch (with ddp only)",
    )
    lora_rank: int | None = Field(
        None, gt=0, description="adapters on the language model's linear layers; none: all weights"
    )
    lora_alpha: int = Field(128, gt=0, description="adapters are scaled by alpha / rank")

    @property
    def at_scale(self) -> bool:
        """Whether training refills groups over all processes and splits batches by tokens."""
        return self.strategy != "ddp" or self.micro_tokens is not None or self.lora_rank is not None
