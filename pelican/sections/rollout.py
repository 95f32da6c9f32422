"""The section `rollout`, and how completions are drawn anywhere."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pelican.sections.base import Section


class Sampling(Section):
    """How completions are drawn."""

    temperature: float = Field(1.0, ge=0, description="0 is greedy")
    top_p: float = Field(1.0, gt=0, le=1)
    max_tokens: int = Field(1024, gt=0)


class VllmConfig(Section):
    """vLLM's settings, by its own names."""

    tensor_parallel_size: int = Field(1, gt=0, description="GPUs of one process")
    gpu_memory_utilization: float = Field(0.9, gt=0, le=1, description="share of a GPU's memory")
    kv_cache_gib: float | None = Field(
        None, gt=0, description="cache of keys and values; none: what is left of a GPU, 1 on a CPU"
    )
    max_model_len: int | None = Field(
        None, gt=0, description="tokens of prompt and completion; none: what the checkpoint says"
    )
    max_num_seqs: int = Field(256, gt=0, description="completions decoded together")
    enable_prefix_caching: bool = Field(True, description="a prompt is computed once")
    enforce_eager: bool = Field(False, description="no compilation, no CUDA graphs; so on any CPU")


class RolloutConfig(Section):
    """The rollout stage."""

    engine: Literal["transformers", "vllm", "replay"] = "vllm"
    samples: int = Field(8, gt=0, description="T of the buffer's rollouts [D]")
    weak_samples: int = Field(4, gt=0, description="T of weak mining [P, model report]")
    sampling: Sampling = Sampling()
    shard_size: int = Field(512, gt=0, description="samples per shard, the unit of resuming")
    batch_size: int = Field(64, gt=0, description="completions decoded together (transformers)")
    vllm: VllmConfig = VllmConfig()
    workers: int = Field(1, gt=0, description="processes")
