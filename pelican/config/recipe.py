"""Every setting of a run, with its unit and, where the paper gives it, its source.

`Recipe`, at the end, is the tree; its sections come before it in the order of a loop. A description ends
in [P] where the paper gives the value, in [D] where it is a decision of ours. Imports neither torch nor
kfp.
"""

from __future__ import annotations

import json
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from pelican.base.address import holds_credentials
from pelican.base.endpoint import is_http
from pelican.base.model import Section, digest_of
from pelican.config.resources import Resources
from pelican.config.stages import STAGES, value_of
from pelican.records import Phase

# What several sections take.

MOST_PROCESSES = 4096  # of one stage


def _http(url: str) -> str:
    # Of credentials `config/credentials.py` says it, without showing them.
    if not is_http(url) and not holds_credentials(url):
        raise PydanticCustomError("http", "an http(s) URL, to its /v1")
    return url


Endpoint = Annotated[str, AfterValidator(_http)]
Seconds = Annotated[float, Field(gt=0)]
Points = Annotated[float, Field(ge=0)]

# The sections `models` and `data`: what a metaloop starts from.


class Models(Section):
    """Checkpoints: Hugging Face folders, by path or URI."""

    policy: str = Field(description="checkpoint of the base policy")
    teacher: str = Field(
        description="checkpoint of a stronger model, which answers the weak samples"
    )


class Data(Section):
    """The pools, as prefixes that hold Parquet shards of samples."""

    train: str = Field(description="pool of embodied samples to train on")
    replay: str = Field(description="pool of general samples, trained on against forgetting")
    evaluation: str = Field(description="pool of embodied samples held out to evaluate on")
    general: str = Field(description="pool of general samples held out to evaluate on")
    horizon_s: tuple[Seconds, ...] = Field(
        (32.0, 64.0),
        min_length=1,
        description="longest clip of each loop in seconds; the last value holds for all later loops [P]",
    )
    samples_per_loop: int | None = Field(
        None, gt=0, description="fresh samples of one loop; none: all"
    )
    max_pixels: int = Field(
        1_003_520, gt=0, description="most pixels of an image; a larger one is scaled down"
    )
    corrections: str | None = Field(
        None, description="file (JSON lines) with a person's corrections of the training pool"
    )
    dev: str | None = Field(
        None,
        description="pool of embodied samples for the gates and the probe, so that evaluation is read"
        " once, at the end; none: the gates read evaluation",
        exclude_if=lambda dev: dev is None,
    )
    dev_general: str | None = Field(
        None,
        description="pool of general samples for the gates, beside dev; none: they read general",
        exclude_if=lambda dev: dev is None,
    )
    draws: Literal["pool", "weakness"] = Field(
        "pool",
        description="shares of a loop's samples: those of the pool's families, or of the failures that the"
        " run has measured so far, by family and dimension",
        exclude_if=lambda draws: draws == "pool",
    )

    @property
    def by_weakness(self) -> bool:
        """Whether a loop's samples depend on what the run measured before."""
        return self.draws == "weakness"

    def horizon(self, loop: int) -> float:
        """Longest clip in seconds that loop `loop` (from 1) trains on."""
        return self.horizon_s[min(loop, len(self.horizon_s)) - 1]


# The sections `model` and `parallel`: how the policy is loaded, and spread over processes to train.

# A system prompt for models that were not trained on the format which the reward wants.
THINK_THEN_ANSWER = (
    "Think step by step inside <think> and </think>, then give only the final answer inside"
    " <answer> and </answer>."
)


class ModelConfig(Section):
    """How the policy is loaded and what of it is trained."""

    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    system_prompt: str | None = Field(
        None, description="text put before every conversation, the teacher's too"
    )
    max_images: int = Field(64, gt=0, description="most images of one conversation, for vLLM")
    gradient_checkpointing: bool = True
    freeze_vision: bool = False
    cache_vision: bool = Field(
        False, description="keep the features of the frozen vision tower in memory"
    )


class ParallelConfig(Section):
    """How training is spread over processes: `docs/scaling.md`."""

    strategy: Literal["ddp", "fsdp2", "zero3"] = Field(
        "ddp",
        description="ddp: every process has the whole model; fsdp2 (torch), zero3 (DeepSpeed): it is sharded",
    )
    micro_tokens: int | None = Field(
        None,
        gt=0,
        description="most tokens of one pass, padding too; none: a process's whole batch (with ddp only)",
    )
    lora_rank: int | None = Field(
        None,
        gt=0,
        description="rank of the adapters on the language model's linear layers; none: all weights are trained",
    )
    lora_alpha: int = Field(
        128, gt=0, description="alpha of the adapters, which are scaled by alpha / rank"
    )

    @property
    def at_scale(self) -> bool:
        """Whether training shards or adapts the policy, or splits batches by tokens."""
        return self.strategy != "ddp" or self.micro_tokens is not None or self.lora_rank is not None


# The section `rollout`, and how completions are sampled in any stage.


class Sampling(Section):
    """How completions are sampled."""

    temperature: float = Field(
        1.0, ge=0, description="temperature of the distribution; 0 takes the likeliest token"
    )
    top_p: float = Field(1.0, gt=0, le=1)
    max_tokens: int = Field(1024, gt=0)


class VllmConfig(Section):
    """vLLM's settings, by its own names."""

    tensor_parallel_size: int = Field(1, gt=0, description="GPUs that share one copy of the model")
    gpu_memory_utilization: float = Field(
        0.9, gt=0, le=1, description="share of a GPU's memory that vLLM takes"
    )
    kv_cache_gib: float | None = Field(
        None, gt=0, description="cache of keys and values; none: what is left of a GPU, 1 on a CPU"
    )
    max_model_len: int | None = Field(
        None, gt=0, description="tokens of prompt and completion; none: what the checkpoint says"
    )
    max_num_seqs: int = Field(256, gt=0, description="completions decoded together")
    enable_prefix_caching: bool = Field(
        True, description="compute a prompt once for all its completions"
    )
    enforce_eager: bool = Field(
        False, description="neither compile nor use CUDA graphs; on a CPU always so"
    )


class RolloutConfig(Section):
    """The rollout stage."""

    engine: Literal["transformers", "vllm", "replay"] = "vllm"
    samples: int = Field(
        8,
        gt=0,
        description="rollouts of one sample from which the buffer is made (T of the paper) [D]",
    )
    weak_samples: int = Field(
        4,
        gt=0,
        description="rollouts of one sample from which weak ones are found (T of the paper) [P, model report]",
    )
    sampling: Sampling = Sampling()
    shard_size: int = Field(512, gt=0, description="samples per shard, the unit of resuming")
    batch_size: int = Field(64, gt=0, description="completions decoded together (transformers)")
    vllm: VllmConfig = VllmConfig()
    workers: int = Field(1, gt=0, le=MOST_PROCESSES, description="processes of the rollout stage")


# The sections `reward` and `eval`: what an answer is worth, and when a loop went wrong.


class JudgeConfig(Section):
    """The model that judges free text."""

    endpoint: Endpoint = Field(description="OpenAI-compatible base URL, with /v1")
    model: str
    votes: int = Field(
        3, gt=0, description="replies whose majority decides; odd, so that none ties"
    )
    temperature: float = Field(0.7, ge=0)
    timeout_s: float = Field(60.0, gt=0, description="seconds to wait for one reply")
    workers: int = Field(8, gt=0, le=1024, description="answers judged at a time")
    attempts: int = Field(6, gt=0, description="requests for one reply before the stage gives up")
    backoff_s: float = Field(
        1.0, ge=0, description="seconds of the first pause between two attempts; later ones grow"
    )
    in_training: bool = Field(
        False, description="judge free text in the inner loop of RL as well, where it is slow"
    )

    @model_validator(mode="after")
    def _odd(self) -> JudgeConfig:
        if self.votes % 2 == 0:
            raise ValueError(f"reward.judge.votes is {self.votes}; take an odd number")
        return self


class RewardConfig(Section):
    """R = format_weight * R_fmt + (1 - format_weight) * R_task."""

    format_weight: float = Field(
        0.1,
        ge=0,
        le=1,
        description="weight of the format in the reward (lambda_f of the paper) [D]",
    )
    success_threshold: float = Field(
        0.5, ge=0, le=1, description="R_task that counts as success [D]"
    )
    order_success_threshold: float = Field(
        0.75,
        ge=0,
        le=1,
        description="the same for orders and plans, because right items in random order earn half",
    )
    max_think_chars: int = Field(
        8192, gt=0, description="longest thinking in characters that keeps the format reward"
    )
    flip: float = Field(
        0.0, ge=0, le=1, description="share of the RL phase's rewards flipped (ablation)"
    )
    judge: JudgeConfig | None = Field(
        None, description="model that judges free text; none: such answers score 0"
    )

    def threshold(self, kind: str) -> float:
        """R_task that counts as success for answers of this kind."""
        ordered = kind in ("order", "steps")
        return self.order_success_threshold if ordered else self.success_threshold

    @property
    def honest(self) -> RewardConfig:
        """The same reward without the ablation's flips.

        Teaching and evaluation use it, because only the rewards that RL learns from are to be
        flipped.
        """
        return self.model_copy(update={"flip": 0.0})


class EvalConfig(Section):
    """Held-out evaluation and the gate."""

    sampling: Sampling = Sampling(temperature=0.0)
    bootstrap: int = Field(2000, gt=0, description="resamples of a confidence interval")
    max_general_drop: float = Field(3.0, ge=0, description="points the general suite may lose")
    max_embodied_drop: float = Field(3.0, ge=0, description="points a loop may lose before we stop")
    samples: int = Field(
        0,
        ge=0,
        le=64,
        description="answers to a held-out question that are sampled beside the greedy one, for p@1, p@k"
        " and the majority's; 0: none",
        exclude_if=lambda samples: not samples,
    )
    samples_temperature: float = Field(
        1.0,
        gt=0,
        description="temperature of those answers",
        exclude_if=lambda temperature: temperature == 1.0,
    )

    @property
    def sampled(self) -> Sampling:
        """How those answers are sampled."""
        return Sampling(temperature=self.samples_temperature, max_tokens=self.sampling.max_tokens)


# The section `filter`: which samples the RL phase practises.


class FilterConfig(Section):
    """The difficulty-aware buffer."""

    strategy: Literal["difficulty", "random"] = "difficulty"
    intractable_share: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="largest share of the buffer that samples of success rate 0 may have [D]",
    )
    buffer_size: int | None = Field(
        None, gt=0, description="most samples of the buffer; none: all that qualify"
    )
    chance_p: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="a sample whose successes guessing brings with this probability or more is weak and not"
        " practised, such as 0.1; none: the success rate alone decides, as published",
        exclude_if=lambda p: p is None,
    )
    zeros_again: int = Field(
        0,
        ge=0,
        description="further rollouts of a sample none of whose rollout.weak_samples succeeded, before it is"
        " called weak; 0: those decide",
        exclude_if=lambda more: not more,
    )


# The section `rl.generation`: where the completions of RL are made. See `docs/scaling.md`.


class GenerationConfig(Section):
    """A copy of the policy in each process, or servers that get its weights after each step.

    Which servers: PELICAN_GENERATION_SERVERS and _FOLDER, else one is started beside the training.
    """

    where: Literal["process", "server"] = "process"
    tolerance: float = Field(
        0.05,
        gt=0,
        description="largest mean difference of log-probabilities after weights were sent [D]",
    )
    max_staleness: int = Field(
        0,
        ge=0,
        description="most steps that the weights of a sampler may lag; above 0 sampling overlaps training",
    )
    importance_cap: float | None = Field(
        2.0,
        gt=0,
        description="cap of the importance ratio policy : sampler of a token; none: no correction [D]",
    )

    @model_validator(mode="after")
    def _fits(self) -> GenerationConfig:
        if self.where == "process" and self.max_staleness:
            raise ValueError("rl.generation.max_staleness needs rl.generation.where=server")
        return self


# The section `rl.variant`: published changes of GRPO, each off by default. `docs/results.md` has
# the source of each.


class RlVariant(Section):
    """Changes of GRPO. The section is part of a recipe's digest only if it changes something.

    So what was trained before the section existed stays valid.
    """

    updates: int = Field(
        1,
        ge=1,
        le=8,
        description="optimiser steps per batch of rollouts; clipping acts from the 2nd",
    )
    rollouts: int | None = Field(
        None,
        gt=1,
        description="completions drawn for a group; the group_size of most variance are trained on",
    )
    perception: float = Field(
        0.0, ge=0, description="weight of the KL between seeing the image and seeing it masked"
    )
    entropy: float = Field(
        0.0, ge=0, description="weight of both entropies, with the image and with it masked"
    )
    masked_share: float = Field(
        0.6, gt=0, le=1, description="share of an image's patches that are masked"
    )
    masked_gradients: bool = Field(
        False, description="let gradients flow through the pass with masked images, too"
    )
    hints: bool = Field(False, description="draw a group again with a hint if all of it failed")

    @property
    def off(self) -> bool:
        """Whether this is GRPO as it is."""
        return self == RlVariant()

    def drawn(self, group_size: int) -> int:
        """Completions of a group before it is down-sampled."""
        return self.rollouts or group_size

    def mistake(self, group_size: int, save_steps: int, at_scale: bool) -> str | None:
        """Why the section doesn't fit the rest of the recipe, as a sentence; None if it does."""
        if self.drawn(group_size) < group_size:
            return (
                f"rl.variant.rollouts = {self.rollouts} is less than rl.group_size = {group_size}:"
                " more are drawn than trained on"
            )
        if save_steps % self.updates:
            return (
                f"rl.save_steps = {save_steps} does not divide by rl.variant.updates ="
                f" {self.updates}: a training would resume without its rollouts; choose a multiple"
            )
        if self.entropy and not self.perception:
            return (
                "rl.variant.entropy regularises rl.variant.perception, which is 0; set it as well"
            )
        if at_scale and self.model_copy(update={"rollouts": None}) != RlVariant():
            return (
                "of rl.variant only rollouts works with parallel.strategy, micro_tokens or"
                " lora_rank; set those aside, or train without the variant"
            )
        return None


# The section `rl`: GRPO, and when its phase ends.


class ProbeConfig(Section):
    """Held-out questions that the policy answers while RL goes on (`rl.stop.of=probe`)."""

    prompts: int = Field(20, ge=2, description="questions of each family, drawn once from data.dev")
    samples: int = Field(8, gt=0, description="answers to each question, by rl.sampling")
    steps: int = Field(25, gt=0, description="optimiser steps from one probe to the next [D]")
    windows: int = Field(
        4,
        ge=3,
        description="newest probes whose slope is compared with its standard error [D]",
    )


class StopConfig(Section):
    """When the RL phase ends: mean over tasks of TS_i >= threshold [P], or a held-out probe."""

    threshold: float = Field(
        0.7, ge=0, le=1, description="mean stagnation at which the phase ends [P]"
    )
    delta: float = Field(1.0, gt=0, description="scale of the rate of change [D]")
    ema: float = Field(
        0.5, gt=0, le=1, description="weight of the newest window in the moving mean [D]"
    )
    window: int = Field(10, gt=0, description="optimiser steps per window [D]")
    of: Literal["families", "samples", "probe"] = Field(
        "families",
        description="whose success rates are extreme: families' means, single samples' (our reading of the"
        " paper's 0.7); probe: RL ends when held-out success stops rising, whatever the threshold [D]",
        exclude_if=lambda of: of == "families",
    )
    probe: ProbeConfig = Field(ProbeConfig(), exclude_if=lambda probe: probe == ProbeConfig())

    @property
    def probes(self) -> bool:
        """Whether held-out questions are answered during RL."""
        return self.of == "probe"


# Of a score (`pelican/records.py`).
VarianceOf = Literal["reward", "task", "success"]


class RlConfig(Section):
    """GRPO."""

    enabled: bool = True
    group_size: int = Field(
        8,
        gt=1,
        description="completions of one prompt, compared with each other (G of the paper) [D]",
    )
    prompts_per_step: int = Field(32, gt=0, description="groups of one optimiser step")
    learning_rate: float = Field(1e-6, gt=0, description="[D]")
    warmup_steps: int = Field(0, ge=0)
    lr_scheduler: Literal["constant_with_warmup", "linear", "cosine"] = Field(
        "constant_with_warmup",
        description="course of the learning rate; linear and cosine reach 0 at max_steps [D]",
    )
    kl: float = Field(
        1e-2,
        ge=0,
        description="weight of the KL divergence from the policy that the phase started with [D]",
    )
    clip_low: float = Field(
        0.2, gt=0, description="probability ratios below 1 minus this are clipped [D]"
    )
    clip_high: float = Field(
        0.28, gt=0, description="probability ratios above 1 plus this are clipped [D]"
    )
    max_grad_norm: float = Field(1.0, gt=0)
    refill: int = Field(
        3,
        ge=0,
        description="times that a step may draw further prompts for groups without variance [D]",
    )
    oversample: float = Field(
        1.0, ge=1, description="groups drawn per group wanted: some turn out without variance [D]"
    )
    min_steps: int = Field(20, ge=0)
    max_steps: int = Field(400, gt=0)
    save_steps: int = Field(50, gt=0)
    sampling: Sampling = Sampling()
    stop: StopConfig = StopConfig()
    generation: GenerationConfig = GenerationConfig()
    processes: int = Field(1, gt=0, le=MOST_PROCESSES)
    threads: int = Field(1, gt=0, le=MOST_PROCESSES, description="CPU threads per process")
    seed: int = 0
    variant: RlVariant = Field(RlVariant(), exclude_if=lambda variant: variant.off)
    variance_of: VarianceOf = Field(
        "reward",
        description="in what the completions of a group must differ, or others are drawn in its place:"
        " the whole reward, the task's part of it, or success [D]",
        exclude_if=lambda of: of == "reward",
    )
    scale_rewards: Literal["group", "batch", "none"] = Field(
        "group",
        description="an advantage is a reward's distance from its group's mean, divided by the standard"
        " deviation of the group, of all that the step trains on, or by nothing [D]",
        exclude_if=lambda scale: scale == "group",
    )
    mask_truncated: bool = Field(
        False,
        description="leave completions that max_tokens cut off out of the loss; their rewards still"
        " count in their group's mean [D]",
        exclude_if=lambda masked: not masked,
    )
    keep_surplus: bool = Field(
        False,
        description="groups with variance that a step has no room for are trained on in the next, at most"
        " half of its groups, with the ratio to the policy that drew them [D]",
        exclude_if=lambda kept: not kept,
    )


# The sections `distill` and `sft`: what a teacher answers, and learning it.


class DistillConfig(Section):
    """D_SFT = D_weak + D_assoc + D_gen [P]."""

    tries: int = Field(4, gt=0, description="answers that the teacher may give to one sample")
    sampling: Sampling = Sampling(temperature=0.7)
    ratio: tuple[float, float, float] = Field(
        (1.0, 1.0, 1.0), description="parts of the mixture: weak : related : general [D]"
    )
    neighbours: int = Field(8, gt=0, description="related samples sought per weak sample")
    embedding: Literal["text", "vision"] = Field(
        "text", description="nearness: words of the question, or with the policy's image features"
    )
    max_rows: int | None = Field(
        None, gt=0, description="most rows of the mixture; none: what the ratio gives"
    )
    endpoint: Endpoint | None = Field(
        None, description="OpenAI-compatible base URL of the teacher; none: it is loaded here"
    )
    only_replay: bool = Field(False, description="train on general replay alone (a control)")
    max_calls: int | None = Field(
        None,
        ge=0,
        description="most answers that the teacher is asked for in a loop, every try counts; none or 0:"
        " no limit",
        exclude_if=lambda calls: not calls,
    )
    prompts: Literal["weak", "uniform"] = Field(
        "weak",
        description="what the teacher is asked about: what is weak and like it, or, as a control,"
        " samples drawn at random, for which nothing is rolled out",
        exclude_if=lambda prompts: prompts == "weak",
    )
    keep_rows: bool = Field(
        False,
        description="learn what earlier loops were taught of weak samples once more; the teacher is not"
        " asked again",
        exclude_if=lambda keep: not keep,
    )
    choose: Literal["shortest", "random"] = Field(
        "shortest",
        description="of a sample's accepted tries with the best score the one to learn; the shortest"
        " teaches to think less",
        exclude_if=lambda choose: choose == "shortest",
    )
    min_score: float | None = Field(
        None,
        gt=0,
        le=1,
        description="R_task that an answer needs to be learned, such as 0.8 for boxes and points; none:"
        " whatever the reward calls a success",
        exclude_if=lambda score: score is None,
    )
    guessable: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="a sample whose chance is above this is learned only if most of its tries are right, and"
        " two at least; none: one right try is enough",
        exclude_if=lambda chance: chance is None,
    )

    @property
    def questions(self) -> int | None:
        """Samples that `max_calls` allows to ask about; None: no limit."""
        return self.max_calls // self.tries if self.max_calls else None


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
    processes: int = Field(1, gt=0, le=MOST_PROCESSES)
    threads: int = Field(1, gt=0, le=MOST_PROCESSES, description="CPU threads per process")
    seed: int = 0


# The sections `retrain` and `gate`: new data for a model that is registered.


class RetrainConfig(Section):
    """New data for a registered model; `pelican retrain` sets the first two fields."""

    data: str | None = Field(None, description="data version to learn from; none: no retraining")
    parent: str | None = Field(None, description="model version to go on from, such as tiny:3")
    held_share: float = Field(
        0.2, gt=0, lt=1, description="scenes held out of new data that has no test split itself [D]"
    )
    weak_below: float = Field(
        0.5, gt=0, le=1, description="a sample with a lower success rate is weak [D]"
    )
    min_weak: int = Field(20, ge=1, description="fewer weak samples are no reason to train [D]")
    min_weak_share: float = Field(
        0.05,
        ge=0,
        le=1,
        description="fewer weak samples than this share of the diagnosed ones are no reason to train [D]",
    )
    replay: float = Field(1.0, ge=0, description="earlier samples per new one in practice [D]")


class GateConfig(Section):
    """When a retrained model takes the place of the current one; points are of 100."""

    min_gain: float = Field(0.0, ge=0, description="points to gain on the new held-out set [D]")
    confidence: float = Field(
        0.95, ge=0.5, lt=1, description="share of bootstrap resamples with more than that gain [D]"
    )
    max_drop: float = Field(
        3.0, ge=0, description="points a family, dimension or benchmark may lose on old sets [D]"
    )
    min_questions: int = Field(
        20,
        ge=1,
        description="questions that a part of the old held-out sets needs to be judged by itself;"
        " smaller parts are judged together [D]",
    )
    min_scenes: int = Field(
        5, ge=2, description="scenes that a gain or a loss must be seen on to be believed [D]"
    )
    tolerances: dict[str, Points] = Field(
        {},
        description='points that a part may lose instead of max_drop, by name, such as {"counting": 5}',
    )
    max_quarantined: float = Field(
        0.1, ge=0, le=1, description="share of the new rows that may be unusable [D]"
    )
    min_teacher_agreement: float = Field(
        0.5,
        ge=0,
        description="new labels that the teacher's answers confirm, relative to old ones [D]",
    )


# The whole recipe: the tree of these sections, and what depends on several of them.


class Recipe(Section):
    """A complete metaloop."""

    name: str = Field(pattern="^[a-z0-9][a-z0-9_]*$")
    loops: int = Field(3, ge=1, le=10, description="loops of RL and SFT (K of the paper) [P]")
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
    resources: Resources = Field(
        Resources(),
        description="what the pods of each stage ask of a cluster; no part of the digest",
    )
    retrain: RetrainConfig = RetrainConfig()
    gate: GateConfig = GateConfig()

    @property
    def mines(self) -> bool:
        """Whether the SFT phases look for what is weak before the teacher is asked."""
        return self.distill.prompts == "weak"

    @property
    def last_phase(self) -> Phase:
        """The phase that ends a loop."""
        return Phase.SFT if self.sft.enabled else Phase.RL

    def obeys_gate_after(self, phase: Phase) -> bool:
        """False after RL if SFT follows, which may restore what RL lost: then it is only measured."""
        return phase in (Phase.BASE, self.last_phase)

    def can_stop_after(self, loop: int, phase: Phase) -> bool:
        """Whether the gate after this loop and phase can end the run early.

        It can if it is obeyed and another loop would follow.
        """
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
        """Refuse combinations that would end a stage hours later, or silently mean something else."""
        if self.rl.sampling.temperature == 0:
            raise ValueError(
                "rl.sampling.temperature is 0: a group's greedy completions are all equal; raise it"
            )
        for row in STAGES.values():
            if not row.rows:
                continue
            total, processes = value_of(self, row.rows), value_of(self, row.processes)
            if total % processes:
                raise ValueError(
                    f"{row.rows} = {total} does not divide by {row.processes} = {processes};"
                    " choose a multiple"
                )
        rl = self.rl
        mistake = rl.variant.mistake(rl.group_size, rl.save_steps, self.parallel.at_scale)
        if mistake:
            raise ValueError(mistake)
        self._dev_fits()
        if rl.keep_surplus and (self.parallel.at_scale or not rl.variant.off):
            raise ValueError(
                "rl.keep_surplus works neither with rl.variant nor with parallel.strategy, micro_tokens or"
                " lora_rank; set it to false, or set those aside"
            )
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
        if self.data.by_weakness and self.data.samples_per_loop is None:
            raise ValueError(
                "data.draws=weakness chooses which samples a loop has, but without data.samples_per_loop a"
                " loop has all of them; set it"
            )
        if self.data.by_weakness and not self.mines:
            raise ValueError(
                "data.draws=weakness leaves to later loops what was not rolled out, and with"
                " distill.prompts=uniform nothing is; set one of them back"
            )
        if self.distill.questions == 0:
            raise ValueError(
                f"distill.max_calls = {self.distill.max_calls} is less than distill.tries ="
                f" {self.distill.tries}: no sample could be asked about; raise it, or lower the tries"
            )
        if self.distill.guessable is not None and self.distill.tries < 2:
            raise ValueError(
                "distill.guessable asks for two right tries, but distill.tries is 1: raise it"
            )
        if self.distill.prompts == "uniform" and self.distill.only_replay:
            raise ValueError(
                "distill.only_replay asks about no sample of the training pool, so"
                " distill.prompts=uniform has nothing to draw; set one of them back"
            )
        if min(self.distill.ratio) < 0 or not any(self.distill.ratio):
            raise ValueError(
                f"distill.ratio is {self.distill.ratio}; give three numbers of 0 or more, not all 0"
            )
        return self

    def _dev_fits(self) -> None:
        """What chooses is not what measures: raises ValueError."""
        data = self.data
        if data.dev_general is not None and data.dev is None:
            raise ValueError("data.dev_general needs data.dev: set both, or neither")
        for name, dev, sealed in (
            ("evaluation", data.dev, data.evaluation),
            ("general", data.dev_general, data.general),
        ):
            if dev is not None and dev == sealed:
                raise ValueError(
                    f"data.{name} and its dev pool are both {dev}: what the gates read can't be"
                    " sealed; name another pool, or leave the dev pool out"
                )
        if self.rl.stop.probes and data.dev is None:
            raise ValueError(
                "rl.stop.of=probe needs data.dev, a pool of held-out questions that is not the one"
                " the run is measured on"
            )

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
    "ProbeConfig",
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
    "VarianceOf",
    "VllmConfig",
]
