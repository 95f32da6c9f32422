"""Memory per GPU, tokens per step, hours and storage of a recipe: the formulas of docs/planning.md.

Bytes and seconds, from shapes and a few assumed shares of a GPU's peak. Communication is in those
shares; it is not modelled.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from pelican.planning.shapes import Shape
from pelican.recipe import Recipe
from pelican.settings import GENERATION_SERVERS

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
    """What the data bring: samples of one loop, tokens of a prompt and of a completion."""

    samples: int
    prompt: int
    completion: int


Parts = dict[str, float]


def state(shape: Shape, recipe: Recipe, processes: int) -> Parts:
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
    parts = state(shape, recipe, config.processes)
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
    """Servers that train-rl draws from: those that the recipe's pods are told, else one; or none."""
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
    """Of `sequences` completions, `together` at a time on `gpus` GPUs, each token reading all weights."""
    tokens = sequences * load.completion
    read = 2 * shape.text + together * (load.prompt + load.completion / 2) * shape.kv_bytes(2)
    return tokens / together * read / (gpus * gpu.bandwidth * DECODE_SHARE)


def prefill_seconds(shape: Shape, gpu: Gpu, gpus: int, prompts: float, load: Load) -> float:
    work = 2 * shape.text * load.prompt + 2 * shape.vision * PATCHES_PER_TOKEN * load.prompt
    return prompts * work / (gpus * gpu.flops * PREFILL_SHARE)


def engine_seconds(
    shape: Shape, recipe: Recipe, gpu: Gpu, load: Load, engines: int, prompts: float, tries: int
) -> float:
    """Of `tries` completions a prompt, on so many engines: every prompt computed once, the cache's
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
    """Of one optimiser step: its share of a batch's generation, and the passes."""
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
    """Of the vision tower, whose tokens are the patches; a frozen one has no backward pass."""
    patches = PATCHES_PER_TOKEN * tokens * load.prompt / (load.prompt + load.completion)
    passes = 2.0 if recipe.model.freeze_vision else 6.0
    return passes * shape.vision * patches
