"""The typed configuration of a metaloop: one tree, one line per field with its unit.

Imports neither torch nor kfp. Defaults follow the DPPO papers (arXiv 2511.16602, 2511.00108) where
they publish a value, marked [P]; the others are Pelican's decisions, marked [D].
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from pelican.digest import digest_of
from pelican.generation import GenerationConfig as GenerationConfig
from pelican.placement import Resources
from pelican.renewal import GateConfig as GateConfig
from pelican.renewal import RetrainConfig as RetrainConfig
from pelican.rl_variant import RlVariant as RlVariant
from pelican.section import Section


class Models(Section):
    """Checkpoints: Hugging Face folders, by path or URI."""

    policy: str = Field(description="base policy")
    teacher: str = Field(description="stronger model that answers the weak set")


class Data(Section):
    """The pools, as prefixes that hold Parquet shards of samples."""

    train: str = Field(description="embodied training pool")
    replay: str = Field(description="general samples against forgetting")
    evaluation: str = Field(description="embodied held-out set")
    general: str = Field(description="general held-out suite")
    horizon_s: tuple[float, ...] = Field(
        (32.0, 64.0), min_length=1, description="longest clip per loop, the last repeats [P]"
    )
    samples_per_loop: int | None = Field(None, gt=0, description="fresh samples a loop; none: all")
    max_pixels: int = Field(1_003_520, gt=0, description="an image above is scaled down")
    corrections: str | None = Field(
        None, description="a person's corrections of the training pool, JSON lines"
    )

    def horizon(self, loop: int) -> float:
        """Longest clip in seconds that loop `loop` (from 1) trains on."""
        return self.horizon_s[min(loop, len(self.horizon_s)) - 1]


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
    flip: float = Field(0.0, ge=0, le=1, description="share of rewards flipped (ablation)")
    judge: JudgeConfig | None = Field(None, description="of free text; none: such answers score 0")

    def threshold(self, kind: str) -> float:
        """R_task that counts as success for answers of this kind."""
        ordered = kind in ("order", "steps")
        return self.order_success_threshold if ordered else self.success_threshold


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


class EvalConfig(Section):
    """Held-out evaluation and the gate."""

    sampling: Sampling = Sampling(temperature=0.0)
    bootstrap: int = Field(2000, gt=0, description="resamples of a confidence interval")
    max_general_drop: float = Field(3.0, ge=0, description="points the general suite may lose")
    max_embodied_drop: float = Field(3.0, ge=0, description="points a loop may lose before we stop")


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
