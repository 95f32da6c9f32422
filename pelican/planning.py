"""What a recipe needs: memory per GPU, tokens per step, hours, storage; from the model's shapes."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

from pelican.base.parse import parse_json
from pelican.config import env
from pelican.config.env import GENERATION_SERVERS
from pelican.config.recipe import Recipe
from pelican.config.stages import STAGES, is_training
from pelican.errors import UserInputError

# Memory per GPU, tokens per step, hours and storage of a recipe: the formulas of docs/scaling.md.
#
# Bytes and seconds, from shapes and a few assumed shares of a GPU's peak. Communication is in those
# shares; it is not modelled.

PATCHES_PER_TOKEN = 4  # of the tower, for each image token
RESERVED = 6e9  # CUDA's context, NCCL's buffers, what the allocator can't give back
TRAIN_SHARE = 0.35  # of peak FLOP/s in a training pass
PREFILL_SHARE = 0.5
DECODE_SHARE = 0.6  # of peak memory bandwidth while decoding


@dataclass(frozen=True)
class Gpu:
    """A GPU's memory in bytes, dense bfloat16 FLOP/s and bytes/s of memory, as its maker says."""

    memory: float
    flops: float
    bandwidth: float


GPUS = {
    "a100": Gpu(80e9, 312e12, 2.04e12),
    "h100": Gpu(80e9, 989e12, 3.35e12),
    "h200": Gpu(141e9, 989e12, 4.8e12),
    "b200": Gpu(180e9, 2250e12, 7.7e12),
    "l40s": Gpu(48e9, 362e12, 0.864e12),
}


@dataclass(frozen=True)
class Load:
    """The load of the data: samples of one loop, tokens of a prompt and of a completion."""

    samples: int
    prompt: int
    completion: int


Parts = dict[str, float]


def state_bytes(shape: Shape, recipe: Recipe, processes: int) -> Parts:
    """Bytes of weights, gradients and Adam's moments that one process holds."""
    parallel = recipe.parallel
    shards = 1 if parallel.strategy == "ddp" else processes
    kept: float = shape.total
    trained: float = shape.text if recipe.model.freeze_vision else shape.total
    if parallel.lora_rank is not None:
        trained = shape.adapters(parallel.lora_rank)
        kept += trained
    return {
        "weights, float32": 4 * kept / shards,
        "gradients, float32": 4 * trained / shards,
        "Adam's moments, float32": 8 * trained / shards,
    }


def activations(shape: Shape, recipe: Recipe, tokens: int, images: int) -> float:
    """Bytes kept for the backward pass of `tokens` tokens, `images` of which stand for images.

    With checkpointing the input of every block, and all of one block while it is computed again.
    """
    width = 2 if recipe.model.dtype == "bfloat16" else 4
    patches = 0 if recipe.model.freeze_vision else PATCHES_PER_TOKEN * images
    block = tokens * width * text_block(shape)
    tower = patches * width * vision_block(shape)
    if recipe.model.gradient_checkpointing:
        inputs = tokens * width * shape.hidden * shape.layers
        inputs += patches * width * shape.vision_hidden * shape.vision_depth
        return inputs + max(block, tower)
    return block * shape.layers + tower * shape.vision_depth


def text_block(shape: Shape) -> int:
    """Numbers per token that one block of the language model keeps for its backward pass."""
    q, kv = shape.heads * shape.head_width, shape.kv_heads * shape.head_width
    return 6 * shape.hidden + 3 * q + 3 * kv + 4 * shape.intermediate


def vision_block(shape: Shape) -> int:
    return 12 * shape.vision_hidden + 4 * shape.vision_intermediate


def logits(shape: Shape, tokens: int) -> float:
    """Scores over the vocabulary, their softmax and its gradient, in float32."""
    return 12.0 * shape.vocabulary * tokens


def train_memory(shape: Shape, recipe: Recipe, load: Load, *, rl: bool) -> Parts:
    """Bytes of one process of train-rl or train-sft."""
    config = recipe.rl if rl else recipe.sft
    width = 2 if recipe.model.dtype == "bfloat16" else 4
    shards = 1 if recipe.parallel.strategy == "ddp" else config.processes
    parts = state_bytes(shape, recipe, config.processes)
    if shards > 1:
        parts["gathered blocks, two and their gradients"] = 3.0 * width * shape.largest_unit
    elif recipe.model.dtype == "bfloat16":
        parts["bfloat16 of the weights in a pass"] = 2.0 * shape.total
    row = load.prompt + load.completion
    rows = rows_per_process(recipe, rl=rl)
    whole = rows * row
    tokens = whole if recipe.parallel.micro_tokens is None else recipe.parallel.micro_tokens
    tokens = min(whole, max(row, tokens))
    share = load.completion / row
    images = round(tokens * (1 - share))
    held = 2 if rl and _through_masked(recipe) else 1
    parts["activations"] = held * activations(shape, recipe, tokens, images)
    parts["logits"] = held * logits(shape, ceil(tokens * share))
    if rl:
        if recipe.rl.kl and recipe.parallel.lora_rank is None:
            parts["reference"] = width * shape.total / shards
        if recipe.rl.generation.where == "process":
            if recipe.parallel.at_scale:  # else the policy itself generates
                parts["copy to generate with"] = float(width * shape.total)
            keys = load.prompt + drawn_per_group(recipe) * load.completion
            prompts = ceil(groups_drawn(recipe) / recipe.rl.processes)
            parts["keys and values"] = float(prompts * keys * shape.kv_bytes(width))
    parts["reserved"] = RESERVED
    return parts


def rows_per_process(recipe: Recipe, *, rl: bool) -> int:
    """Completions, or demonstrations, of one step in one process."""
    if rl:
        return recipe.rl.prompts_per_step * recipe.rl.group_size // recipe.rl.processes
    return recipe.sft.batch_size // recipe.sft.processes


def groups_drawn(recipe: Recipe) -> float:
    """Groups that are drawn together for a batch, before those without variance are refilled."""
    return recipe.rl.prompts_per_step * recipe.rl.oversample


def drawn_per_group(recipe: Recipe) -> int:
    """Completions of a group, of which `rl.group_size` are trained on."""
    return recipe.rl.variant.drawn(recipe.rl.group_size)


def generation_servers(recipe: Recipe) -> int:
    """Servers that train-rl draws from: those named in its pods' environment, else one; or none."""
    if not recipe.rl.enabled or recipe.rl.generation.where == "process":
        return 0
    named = (recipe.resources.of("train-rl").env or {}).get(GENERATION_SERVERS, "")
    return max(1, len([url for url in named.split(",") if url.strip()]))


def _through_masked(recipe: Recipe) -> bool:
    variant = recipe.rl.variant
    return bool(variant.perception) and variant.masked_gradients


def engine_memory(weights: float, shape: Shape, recipe: Recipe, load: Load, gpu: Gpu) -> Parts:
    """Bytes of one GPU of a rollout engine that holds `weights` bytes; the cache takes what is left.

    The cache has room for one prompt with its completion at least.
    """
    config = recipe.rollout.vllm
    parts = {
        "weights": weights / config.tensor_parallel_size,
        "activations and images": 0.05 * gpu.memory,
    }
    one = (load.prompt + load.completion) * shape.kv_bytes(2) / config.tensor_parallel_size
    left = config.gpu_memory_utilization * gpu.memory - sum(parts.values())
    return parts | {"keys and values": max(one, left)}


def decode_seconds(
    shape: Shape, gpu: Gpu, gpus: int, sequences: float, load: Load, together: float
) -> float:
    """Seconds to decode `sequences` completions, `together` at a time on `gpus` GPUs, each token reading all weights."""
    tokens = sequences * load.completion
    read = 2 * shape.text + together * (load.prompt + load.completion / 2) * shape.kv_bytes(2)
    return tokens / together * read / (gpus * gpu.bandwidth * DECODE_SHARE)


def prefill_seconds(shape: Shape, gpu: Gpu, gpus: int, prompts: float, load: Load) -> float:
    work = 2 * shape.text * load.prompt + 2 * shape.vision * PATCHES_PER_TOKEN * load.prompt
    return prompts * work / (gpus * gpu.flops * PREFILL_SHARE)


def engine_seconds(
    shape: Shape, recipe: Recipe, gpu: Gpu, load: Load, engines: int, prompts: float, tries: int
) -> float:
    """Seconds for `tries` completions a prompt, on so many engines: every prompt computed once, the cache's
    room decoded together.
    """
    config = recipe.rollout.vllm
    gpus = config.tensor_parallel_size
    room = engine_memory(2.0 * shape.total, shape, recipe, load, gpu)["keys and values"] * gpus
    fit = room / ((load.prompt + load.completion) * shape.kv_bytes(2))
    each = ceil(prompts / engines)
    together = max(1.0, min(config.max_num_seqs, fit, each * tries))
    return prefill_seconds(shape, gpu, gpus, each, load) + decode_seconds(
        shape, gpu, gpus, each * tries, load, together
    )


def rl_step_seconds(shape: Shape, recipe: Recipe, gpu: Gpu, load: Load) -> dict[str, float]:
    """Seconds of one optimiser step: its share of a batch's generation, and the passes."""
    rl, variant = recipe.rl, recipe.rl.variant
    groups, each = groups_drawn(recipe), drawn_per_group(recipe)
    if servers := generation_servers(recipe):
        generate = engine_seconds(shape, recipe, gpu, load, servers, groups, each)
    else:
        mine = groups / rl.processes
        generate = prefill_seconds(shape, gpu, 1, mine, load)
        generate += decode_seconds(shape, gpu, 1, mine * each, load, together=mine * each)
    if variant.hints:  # at most: every group fails and is drawn once more
        generate *= 2
    tokens = rows_per_process(recipe, rl=True) * (load.prompt + load.completion)
    passes = 8.0 if recipe.model.gradient_checkpointing else 6.0
    per_batch = 2.0 * bool(rl.kl) + 2.0 * bool(servers and rl.generation.importance_cap)
    masked = (passes if variant.masked_gradients else 2.0) * bool(variant.perception)
    looks = 1 + bool(variant.perception)
    flops = (passes + masked + per_batch / variant.updates) * shape.text * tokens
    flops += looks * tower_flops(shape, recipe, tokens, load)
    return {
        "generation": generate / variant.updates,
        "training": flops / (gpu.flops * TRAIN_SHARE),
    }


def sft_step_seconds(shape: Shape, recipe: Recipe, gpu: Gpu, load: Load) -> float:
    tokens = rows_per_process(recipe, rl=False) * (load.prompt + load.completion)
    passes = 8.0 if recipe.model.gradient_checkpointing else 6.0
    flops = passes * shape.text * tokens + tower_flops(shape, recipe, tokens, load)
    return flops / (gpu.flops * TRAIN_SHARE)


def tower_flops(shape: Shape, recipe: Recipe, tokens: float, load: Load) -> float:
    """Operations of the vision tower, whose tokens are patches; a frozen one has no backward pass."""
    patches = PATCHES_PER_TOKEN * tokens * load.prompt / (load.prompt + load.completion)
    passes = 2.0 if recipe.model.freeze_vision else 6.0
    return passes * shape.vision * patches


# Sizes of a vision-language model, from its config.json. Imports no torch.


@dataclass(frozen=True)
class Shape:
    """Counts of parameters, and the widths that memory grows with."""

    name: str
    text_layer: int  # parameters of one block of the language model
    layers: int
    embedding: int  # and of the head, if it is not the same matrix
    head: int
    vision_block: int
    vision_depth: int
    vision_rest: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_width: int
    vocabulary: int
    vision_hidden: int
    vision_intermediate: int

    @property
    def text(self) -> int:
        """Parameters of the language model."""
        return self.text_layer * self.layers + self.embedding + self.head + self.hidden

    @property
    def vision(self) -> int:
        """Parameters of the vision tower and its merger."""
        return self.vision_block * self.vision_depth + self.vision_rest

    @property
    def total(self) -> int:
        return self.text + self.vision

    @property
    def largest_unit(self) -> int:
        """Parameters that are gathered together: a block, the embedding or the head."""
        return max(self.text_layer, self.embedding, self.head + self.hidden, self.vision_block)

    def kv_bytes(self, width: int) -> int:
        """Keys and values of one token, in numbers of `width` bytes."""
        return 2 * self.layers * self.kv_heads * self.head_width * width

    def adapters(self, rank: int) -> int:
        """Parameters of low-rank adapters on every linear layer of the language model."""
        q, kv = self.heads * self.head_width, self.kv_heads * self.head_width
        widths = 2 * (self.hidden + q) + 2 * (self.hidden + kv)
        return self.layers * rank * (widths + 3 * (self.hidden + self.intermediate))


def shape_of(where: str) -> Shape:
    """The shape of the checkpoint at a path, or of a published one by its name."""
    path = Path(env.resolve(where)) / "config.json"
    if path.exists():
        try:
            config = parse_json(path.read_text())
            kind = config.get("model_type")
        except (ValueError, AttributeError):
            raise UserInputError(f"{path} is not a configuration in JSON; copy it again") from None
        if kind != "qwen2_5_vl":
            raise UserInputError(
                f"{path} is of a {kind!r}; pelican plan knows qwen2_5_vl, the"
                " policies that can be trained"
            )
        try:
            return qwen(where, config)
        except KeyError as missing:
            raise UserInputError(f"{path} lacks {missing}; copy it again") from None
    name = Path(where).name
    if name in _PUBLISHED:
        return qwen(name, _PUBLISHED[name])
    raise UserInputError(
        f"{where} is neither a folder with a config.json nor one of {', '.join(_PUBLISHED)};"
        " fetch its config.json, or correct models.policy"
    )


def qwen(name: str, config: dict[str, Any]) -> Shape:
    """The shape in a configuration of Qwen2.5-VL; older ones have the language model's fields at the top."""
    text = config.get("text_config") or config
    vision = config["vision_config"]
    h, i = text["hidden_size"], text["intermediate_size"]
    heads, kv = text["num_attention_heads"], text["num_key_value_heads"]
    d = text.get("head_dim") or h // heads
    v, vi = vision["hidden_size"], vision["intermediate_size"]
    patch = 3 * vision.get("temporal_patch_size", 2) * vision.get("patch_size", 14) ** 2
    merged = v * vision.get("spatial_merge_size", 2) ** 2
    tied = config.get("tie_word_embeddings", text.get("tie_word_embeddings", False))
    q_k_v = h * heads * d + heads * d + 2 * (h * kv * d + kv * d)
    return Shape(
        name=name,
        text_layer=q_k_v + heads * d * h + 3 * h * i + 2 * h,
        layers=text["num_hidden_layers"],
        embedding=text["vocab_size"] * h,
        head=0 if tied else text["vocab_size"] * h,
        vision_block=4 * v * v + 4 * v + 3 * v * vi + 2 * vi + v + 2 * v,
        vision_depth=vision["depth"],
        vision_rest=patch * v + v + merged * merged + merged + merged * h + h,
        hidden=h,
        intermediate=i,
        heads=heads,
        kv_heads=kv,
        head_width=d,
        vocabulary=text["vocab_size"],
        vision_hidden=v,
        vision_intermediate=vi,
    )


def weight_bytes(where: str) -> int:
    """Bytes of a checkpoint that is only generated with, in bfloat16."""
    if Path(where).name in _TEACHERS and not Path(env.resolve(where)).exists():
        return 2 * _TEACHERS[Path(where).name]
    files = list(Path(env.resolve(where)).glob("*.safetensors"))
    if files:
        return sum(file.stat().st_size for file in files)
    return 2 * shape_of(where).total


def _qwen_config(**text: int) -> dict[str, Any]:
    vision = {
        "depth": 32,
        "hidden_size": 1280,
        "intermediate_size": text.pop("vision_intermediate"),
        "out_hidden_size": text["hidden_size"],
    }
    tied = bool(text.pop("tied", 0))
    return {"text_config": text, "vision_config": vision, "tie_word_embeddings": tied}


# From the config.json of each model card.
_PUBLISHED = {
    "Qwen2.5-VL-3B-Instruct": _qwen_config(
        hidden_size=2048,
        intermediate_size=11008,
        num_hidden_layers=36,
        num_attention_heads=16,
        num_key_value_heads=2,
        vocab_size=151_936,
        vision_intermediate=3420,
        tied=1,
    ),
    "Qwen2.5-VL-7B-Instruct": _qwen_config(
        hidden_size=3584,
        intermediate_size=18944,
        num_hidden_layers=28,
        num_attention_heads=28,
        num_key_value_heads=4,
        vocab_size=152_064,
        vision_intermediate=3420,
    ),
    "Qwen2.5-VL-72B-Instruct": _qwen_config(
        hidden_size=8192,
        intermediate_size=29568,
        num_hidden_layers=80,
        num_attention_heads=64,
        num_key_value_heads=8,
        vocab_size=152_064,
        vision_intermediate=3456,
    ),
}
_TEACHERS = {"InternVL3_5-38B": 38_400_000_000}

# A recipe on N nodes: what each stage needs, what can't fit, how long it takes, what it stores.

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
        if generation_servers(recipe):
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


def rollouts_of_a_sample(recipe: Recipe) -> int:
    """In one loop: for the buffer, and, where weak samples are mined, for that."""
    config, mines = recipe.rollout, recipe.sft.enabled and recipe.mines
    return config.samples * recipe.rl.enabled + config.weak_samples * mines


def _rollout(shape: Shape, recipe: Recipe, gpu: Gpu, load: Load) -> StagePlan:
    """Rollouts for the buffer and for weak mining, and the evaluations, by the same engines."""
    config = recipe.rollout
    tries = rollouts_of_a_sample(recipe)
    engines = config.workers
    loop = engine_seconds(shape, recipe, gpu, load, engines, load.samples, tries)
    sealed = 2 if recipe.data.dev is not None else 0
    evaluations = 1 + recipe.loops * (recipe.rl.enabled + recipe.sft.enabled) + sealed
    once = engine_seconds(shape, recipe, gpu, load, engines, _EVALUATED, 1 + recipe.eval.samples)
    weights = 2.0 * shape.total
    return StagePlan(
        stage="rollout, eval",
        gpus=config.workers * config.vllm.tensor_parallel_size,
        memory=engine_memory(weights, shape, recipe, load, gpu),
        tokens_per_step=config.vllm.max_num_seqs,
        hours=(recipe.loops * loop + evaluations * once) / 3600,
    )


def _distill(shape: Shape, recipe: Recipe, gpu: Gpu, load: Load) -> StagePlan:
    """The teacher, whose keys and values are taken to be as large as the policy's."""
    weights = float(weight_bytes(recipe.models.teacher))
    weak = ceil(0.2 * load.samples) * recipe.distill.tries
    engines = recipe.rollout.workers
    seconds = engine_seconds(shape, recipe, gpu, load, engines, weak, 1)
    slower = weights / (2.0 * shape.total)
    return StagePlan(
        stage="distill",
        gpus=engines * recipe.rollout.vllm.tensor_parallel_size,
        memory=engine_memory(weights, shape, recipe, load, gpu),
        tokens_per_step=recipe.rollout.vllm.max_num_seqs,
        hours=recipe.loops * seconds * slower / 3600,
    )


def _train_rl(shape: Shape, recipe: Recipe, gpu: Gpu, load: Load) -> StagePlan:
    parts = rl_step_seconds(shape, recipe, gpu, load).values()
    # What is drawn for later steps is drawn while this one trains.
    step = max(parts) if recipe.rl.generation.max_staleness else sum(parts)
    rows = recipe.rl.prompts_per_step * recipe.rl.group_size
    return StagePlan(
        stage="train-rl",
        gpus=recipe.rl.processes,
        memory=train_memory(shape, recipe, load, rl=True),
        tokens_per_step=rows * (load.prompt + load.completion),
        hours=recipe.loops * recipe.rl.max_steps * step / 3600,
    )


def _servers(shape: Shape, recipe: Recipe, gpu: Gpu, load: Load) -> StagePlan:
    """The plan of the servers that train-rl samples from while it trains."""
    config = recipe.rollout.vllm
    seconds = rl_step_seconds(shape, recipe, gpu, load)["generation"]
    return StagePlan(
        stage=SERVERS,
        gpus=generation_servers(recipe) * config.tensor_parallel_size,
        memory=engine_memory(2.0 * shape.total, shape, recipe, load, gpu),
        tokens_per_step=config.max_num_seqs,
        hours=recipe.loops * recipe.rl.max_steps * seconds / 3600,
        beside="train-rl",
    )


def _train_sft(shape: Shape, recipe: Recipe, gpu: Gpu, load: Load) -> StagePlan:
    sft = recipe.sft
    rows = recipe.distill.max_rows or ceil(0.2 * load.samples * sum(recipe.distill.ratio))
    steps = ceil(sft.epochs * rows / sft.batch_size)
    steps = min(steps, sft.max_steps) if sft.max_steps else steps
    seconds = sft_step_seconds(shape, recipe, gpu, load)
    return StagePlan(
        stage="train-sft",
        gpus=sft.processes,
        memory=train_memory(shape, recipe, load, rl=False),
        tokens_per_step=sft.batch_size * (load.prompt + load.completion),
        hours=recipe.loops * steps * seconds / 3600,
    )


def _storage(shape: Shape, recipe: Recipe, load: Load) -> dict[str, float]:
    phases = recipe.rl.enabled + recipe.sft.enabled
    width = 2 if recipe.model.dtype == "bfloat16" else 4
    trained = shape.text if recipe.model.freeze_vision else shape.total
    if recipe.parallel.lora_rank is not None:
        trained = shape.adapters(recipe.parallel.lora_rank)
    tries = rollouts_of_a_sample(recipe)
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
        f" {', '.join(dict.fromkeys(_processes(name) for name in names))}"
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
    if not is_training(stage.stage):
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
    return f"raise {_processes(stage.stage)}, or train adapters with parallel.lora_rank"


def _processes(name: str) -> str:
    """The field that says how many GPUs are asked for: by a stage, by two (`rollout, eval`), or servers."""
    if name == SERVERS:
        return "rollout.vllm.tensor_parallel_size"
    return STAGES[name.partition(", ")[0]].processes
