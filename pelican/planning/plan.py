"""A recipe on N nodes: what each stage needs, what can't fit, how long it takes, what it stores."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from pelican.planning import estimate
from pelican.planning.estimate import GPUS, Gpu, Load, Parts
from pelican.planning.shapes import Shape, shape_of, weight_bytes
from pelican.recipe import Recipe

TEXT_BYTES = 2.0  # of a completion's token in a zstd table
_EVALUATED = 3000  # held-out questions, both suites
SERVERS = "generation servers"


@dataclass(frozen=True)
class StagePlan:
    """One stage: GPUs of its job, bytes on each, tokens of a step, hours of the whole run.

    `beside` is the stage that it runs together with, whose hours count for both.
    """

    stage: str
    gpus: int
    memory: Parts
    tokens_per_step: int
    hours: float
    beside: str = ""

    @property
    def bytes(self) -> float:
        return sum(self.memory.values())


@dataclass(frozen=True)
class Plan:
    """All stages, storage in bytes by what it is, and a sentence for each thing that can't be."""

    shape: Shape
    gpu: Gpu
    load: Load
    stages: list[StagePlan]
    storage: dict[str, float]
    refusals: list[str]

    @property
    def hours(self) -> float:
        return sum(stage.hours for stage in self.stages if not stage.beside)

    @property
    def gpus(self) -> int:
        """The most that are used at a time."""
        return max(_together(stage, self.stages) for stage in self.stages)


def make_plan(recipe: Recipe, gpu_name: str, nodes: int, per_node: int, load: Load) -> Plan:
    """Raises UserInputError for a policy whose shape is not known."""
    shape, gpu = shape_of(recipe.models.policy), GPUS[gpu_name]
    stages = [_rollout(shape, recipe, gpu, load)]
    if recipe.rl.enabled:
        stages.append(_train_rl(shape, recipe, gpu, load))
        if estimate.generation_servers(recipe):
            stages.append(_servers(shape, recipe, gpu, load))
    if recipe.sft.enabled:
        if recipe.distill.endpoint is None and not recipe.distill.only_replay:
            stages.append(_distill(shape, recipe, gpu, load))
        stages.append(_train_sft(shape, recipe, gpu, load))
    return Plan(
        shape=shape,
        gpu=gpu,
        load=load,
        stages=stages,
        storage=_storage(shape, recipe, load),
        refusals=[
            *_too_many(stages, nodes, per_node),
            *filter(None, (_too_large(stage, recipe, gpu_name, gpu) for stage in stages)),
        ],
    )


def _rollout(shape: Shape, recipe: Recipe, gpu: Gpu, load: Load) -> StagePlan:
    """Rollouts for the buffer and for weak mining, and the evaluations, by the same engines."""
    config = recipe.rollout
    tries = config.samples * recipe.rl.enabled + config.weak_samples * recipe.sft.enabled
    engines = config.workers
    loop = estimate.engine_seconds(shape, recipe, gpu, load, engines, load.samples, tries)
    evaluations = 1 + recipe.loops * (recipe.rl.enabled + recipe.sft.enabled)
    once = estimate.engine_seconds(shape, recipe, gpu, load, engines, _EVALUATED, 1)
    weights = 2.0 * shape.total
    return StagePlan(
        stage="rollout, eval",
        gpus=config.workers * config.vllm.tensor_parallel_size,
        memory=estimate.engine_memory(weights, shape, recipe, load, gpu),
        tokens_per_step=config.vllm.max_num_seqs,
        hours=(recipe.loops * loop + evaluations * once) / 3600,
    )


def _distill(shape: Shape, recipe: Recipe, gpu: Gpu, load: Load) -> StagePlan:
    """The teacher, whose keys and values are taken to be as large as the policy's."""
    weights = float(weight_bytes(recipe.models.teacher))
    weak = ceil(0.2 * load.samples) * recipe.distill.tries
    engines = recipe.rollout.workers
    seconds = estimate.engine_seconds(shape, recipe, gpu, load, engines, weak, 1)
    slower = weights / (2.0 * shape.total)
    return StagePlan(
        stage="distill",
        gpus=engines * recipe.rollout.vllm.tensor_parallel_size,
        memory=estimate.engine_memory(weights, shape, recipe, load, gpu),
        tokens_per_step=recipe.rollout.vllm.max_num_seqs,
        hours=recipe.loops * seconds * slower / 3600,
    )


def _train_rl(shape: Shape, recipe: Recipe, gpu: Gpu, load: Load) -> StagePlan:
    parts = estimate.rl_step_seconds(shape, recipe, gpu, load).values()
    # What is drawn for later steps is drawn while this one trains.
    step = max(parts) if recipe.rl.generation.max_staleness else sum(parts)
    rows = recipe.rl.prompts_per_step * recipe.rl.group_size
    return StagePlan(
        stage="train-rl",
        gpus=recipe.rl.processes,
        memory=estimate.train_memory(shape, recipe, load, rl=True),
        tokens_per_step=rows * (load.prompt + load.completion),
        hours=recipe.loops * recipe.rl.max_steps * step / 3600,
    )


def _servers(shape: Shape, recipe: Recipe, gpu: Gpu, load: Load) -> StagePlan:
    """What train-rl draws its completions from, as long as it trains."""
    config = recipe.rollout.vllm
    seconds = estimate.rl_step_seconds(shape, recipe, gpu, load)["generation"]
    return StagePlan(
        stage=SERVERS,
        gpus=estimate.generation_servers(recipe) * config.tensor_parallel_size,
        memory=estimate.engine_memory(2.0 * shape.total, shape, recipe, load, gpu),
        tokens_per_step=config.max_num_seqs,
        hours=recipe.loops * recipe.rl.max_steps * seconds / 3600,
        beside="train-rl",
    )


def _train_sft(shape: Shape, recipe: Recipe, gpu: Gpu, load: Load) -> StagePlan:
    sft = recipe.sft
    rows = recipe.distill.max_rows or ceil(0.2 * load.samples * sum(recipe.distill.ratio))
    steps = ceil(sft.epochs * rows / sft.batch_size)
    steps = min(steps, sft.max_steps) if sft.max_steps else steps
    seconds = estimate.sft_step_seconds(shape, recipe, gpu, load)
    return StagePlan(
        stage="train-sft",
        gpus=sft.processes,
        memory=estimate.train_memory(shape, recipe, load, rl=False),
        tokens_per_step=sft.batch_size * (load.prompt + load.completion),
        hours=recipe.loops * steps * seconds / 3600,
    )


def _storage(shape: Shape, recipe: Recipe, load: Load) -> dict[str, float]:
    phases = recipe.rl.enabled + recipe.sft.enabled
    width = 2 if recipe.model.dtype == "bfloat16" else 4
    trained = shape.text if recipe.model.freeze_vision else shape.total
    if recipe.parallel.lora_rank is not None:
        trained = shape.adapters(recipe.parallel.lora_rank)
    config = recipe.rollout
    tries = config.samples * recipe.rl.enabled + config.weak_samples * recipe.sft.enabled
    return {
        "checkpoints, one a phase": float(recipe.loops * phases * width * shape.total),
        # While the next is written, the last is kept.
        "of an unfinished training, at most": 2.0 * (4 * shape.total + 8 * trained),
        "rollouts": recipe.loops * load.samples * tries * load.completion * TEXT_BYTES,
    }


def _too_many(stages: list[StagePlan], nodes: int, per_node: int) -> list[str]:
    """A sentence for each number of GPUs that is asked for and not there."""
    there, asked = nodes * per_node, dict[int, list[str]]()
    beside = {stage.beside: stage.stage for stage in stages if stage.beside}
    for stage in stages:
        gpus = _together(stage, stages)
        if gpus > there and not stage.beside:
            names = asked.setdefault(gpus, [])
            names.append(stage.stage)
            if stage.stage in beside:
                names.append(beside[stage.stage])
    return [
        f"{', '.join(names)} {'asks' if names == names[:1] else 'ask'} for {gpus} GPUs, but {nodes}"
        f" x {per_node} are {there}; give --nodes {ceil(gpus / per_node)}, or lower"
        f" {', '.join(dict.fromkeys(_PROCESSES[name] for name in names))}"
        for gpus, names in asked.items()
    ]


def _together(stage: StagePlan, stages: list[StagePlan]) -> int:
    """GPUs of a stage and of what runs beside it."""
    return stage.gpus + sum(other.gpus for other in stages if other.beside == stage.stage)


def _too_large(stage: StagePlan, recipe: Recipe, gpu_name: str, gpu: Gpu) -> str:
    if stage.bytes <= gpu.memory:
        return ""
    largest = sorted(stage.memory.items(), key=lambda item: -item[1])[:2]
    most = " and ".join(f"{name} {size / 1e9:.0f} GB" for name, size in largest)
    return (
        f"{stage.stage} needs {stage.bytes / 1e9:.0f} GB on a GPU, an {gpu_name} has"
        f" {gpu.memory / 1e9:.0f} ({most}); {_way_out(stage, recipe)}"
    )


def _way_out(stage: StagePlan, recipe: Recipe) -> str:
    if not stage.stage.startswith("train"):
        return "raise rollout.vllm.tensor_parallel_size"
    if recipe.parallel.strategy == "ddp":
        return "set parallel.strategy=fsdp2"
    largest = max(stage.memory, key=lambda name: stage.memory[name])
    if largest in ("activations", "logits"):
        return "lower parallel.micro_tokens"
    if largest == "keys and values":
        return "lower rl.prompts_per_step or raise rl.processes"
    if largest == "copy to generate with":
        return (
            "each process keeps a whole copy to generate with: set rl.generation.where=server, or take"
            " a smaller policy or larger GPUs"
        )
    return f"raise {_PROCESSES[stage.stage]}, or train adapters with parallel.lora_rank"


_PROCESSES = {
    "rollout, eval": "rollout.workers",
    "distill": "rollout.workers",
    "train-rl": "rl.processes",
    SERVERS: "rollout.vllm.tensor_parallel_size",
    "train-sft": "sft.processes",
}
