"""Training at scale: DeepSpeed and FSDP2, micro-batches by tokens, whole weights of sharded policies."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from transformers import TrainingArguments

from pelican.base.process import all_gather_object
from pelican.config import env
from pelican.config.recipe import Recipe
from pelican.engines.transformers import PromptEncoder, prepare_model
from pelican.engines.transformers_private import name_in_file, to_device, unsharded
from pelican.errors import UserInputError
from pelican.training import deepspeed_private
from pelican.training.accelerate_private import shard_on_cpus, sync_gradients
from pelican.training.logprobs import join_rows, split_rows

# Arguments of DeepSpeed and FSDP2, and policies loaded for them.
#
# The weights in training (masters) are float32, and a pass computes in `model.dtype`, because bfloat16
# cannot hold a change of 1e-6: weights kept in it would not move.

# The units that are gathered for a pass and given up after it.
_BLOCKS = ["Qwen2_5_VLDecoderLayer", "Qwen2_5_VLVisionBlock"]


def backend_arguments(recipe: Recipe) -> dict[str, Any]:
    """`TrainingArguments` of the recipe's `parallel.strategy`, to add to those of every training.

    Raises:
        UserInputError: one process for a sharded policy, or DeepSpeed is not installed.
    """
    mixed = recipe.model.dtype == "bfloat16"
    arguments: dict[str, Any] = {"bf16": mixed}
    if recipe.parallel.strategy != "ddp" and env.world_size() == 1:
        raise UserInputError(
            f"parallel.strategy is {recipe.parallel.strategy!r} but training has one process; raise"
            " rl.processes and sft.processes, or set parallel.strategy=ddp"
        )
    if recipe.parallel.strategy == "fsdp2":
        arguments["fsdp"] = True
        arguments["fsdp_config"] = {
            "version": 2,
            "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
            "transformer_layer_cls_to_wrap": _BLOCKS,
            "reshard_after_forward": True,
            "cpu_ram_efficient_loading": True,
            "state_dict_type": "SHARDED_STATE_DICT",
        }
    if recipe.parallel.strategy == "zero3":
        if importlib.util.find_spec("deepspeed") is None:
            raise UserInputError(
                "parallel.strategy is 'zero3' but deepspeed is not installed; install the extra"
                " 'gpu', or set parallel.strategy=fsdp2"
            )
        arguments["deepspeed"] = {
            "bf16": {"enabled": mixed},
            "zero_optimization": {"stage": 3, "overlap_comm": torch.cuda.is_available()},
            "gradient_accumulation_steps": 1,
            "gradient_clipping": "auto",
            "train_micro_batch_size_per_gpu": "auto",
            "train_batch_size": "auto",
            "communication_data_type": "fp32",
            "zero_allow_untested_optimizer": True,
        }
    return arguments


def finish_arguments(arguments: Any, recipe: Recipe) -> Any:
    """Set what no argument sets: FSDP2 sums gradients in float32, and its units hand on what they
    computed: as float32 the inputs of all blocks, which checkpointing keeps, would take twice the memory.
    """
    if recipe.parallel.strategy == "zero3" and not torch.cuda.is_available():
        deepspeed_private.run_on_cpus()
    if arguments.fsdp_plugin_args is not None and recipe.model.dtype == "bfloat16":
        from torch.distributed.fsdp import MixedPrecisionPolicy

        arguments.fsdp_plugin_args["mixed_precision_policy"] = MixedPrecisionPolicy(
            param_dtype=torch.bfloat16, reduce_dtype=torch.float32
        )
    return arguments


def load_for_training(
    recipe: Recipe, checkpoint: Path, arguments: TrainingArguments
) -> tuple[Any, PromptEncoder]:
    """The policy in float32, frozen in part or with adapters as the recipe says.

    Args:
        recipe: its sections `model` and `parallel`.
        checkpoint: the weights' folder.
        arguments: of the training. Once they are made DeepSpeed shards the weights while they are
            read, with FSDP2 one process of a machine reads them for all, and each process has its
            device; before, every process would hold all weights, on GPU 0 with DDP.
    """
    from transformers import AutoProcessor

    policy = load_weights(recipe, checkpoint, torch.float32, arguments.device)
    gather_head(policy)
    policy.config.name_or_path = str(checkpoint)
    encoder = prepare_model(recipe.model, policy, AutoProcessor.from_pretrained(checkpoint))
    if recipe.parallel.lora_rank is not None:
        from peft import LoraConfig, get_peft_model

        policy = get_peft_model(
            policy,
            LoraConfig(
                r=recipe.parallel.lora_rank,
                lora_alpha=recipe.parallel.lora_alpha,
                lora_dropout=0.0,
                # Linear layers of the language model; the tower has others of the same names.
                target_modules=r".*language_model.*\.(q|k|v|o|gate|up|down)_proj",
            ),
        )
    return policy, encoder


def load_weights(recipe: Recipe, checkpoint: Path, dtype: torch.dtype, device: torch.device) -> Any:
    """The checkpoint's model in `dtype`, on `device` or spread as the strategy needs it."""
    from transformers import AutoModelForImageTextToText

    with _one_reader(recipe.parallel.strategy):
        policy = AutoModelForImageTextToText.from_pretrained(
            checkpoint, dtype=dtype, use_safetensors=True
        )
    if recipe.parallel.strategy == "fsdp2":
        # transformers leaves zeros in the buffers of all but the process that reads, rotary
        # frequencies among them, and accelerate hands round the weights alone.
        for buffer in policy.buffers():
            torch.distributed.broadcast(buffer, src=0)
    return policy.to(device) if recipe.parallel.strategy == "ddp" else policy


def gather_head(model: Any) -> None:
    """Let FSDP2 gather the head's weights for a pass that does not call its module.

    TRL's fused head multiplies by `lm_head.weight`. If that is sharded it gathers it itself, and then
    each rank keeps its slice of its own tokens' gradient, which nothing sums. Gathered by FSDP it is
    a plain tensor whose gradient is reduced with the others, on a mesh of any dimensions. A tied head
    is the embedding, which FSDP has gathered already.
    """

    def unshard(*_: Any) -> None:
        head = model.get_output_embeddings()
        if isinstance(head, FSDPModule):
            head.unshard()

    def reshard(*_: Any) -> None:
        head = model.get_output_embeddings()
        # A backward pass needs it, and gives it up at its end.
        if isinstance(head, FSDPModule) and not torch.is_grad_enabled():
            head.reshard()

    model.base_model.register_forward_hook(unshard)
    model.register_forward_hook(reshard)


def load_copy(recipe: Recipe, checkpoint: Path) -> Any:
    """A whole model to generate with, on this process's device, in the type it is served in."""
    from transformers import AutoConfig, AutoModelForImageTextToText

    config = AutoConfig.from_pretrained(checkpoint)
    dtype = getattr(torch, recipe.model.dtype)
    device = f"cuda:{torch.cuda.current_device()}" if torch.cuda.is_available() else "cpu"
    with unsharded(), torch.device(device):
        copy = AutoModelForImageTextToText.from_config(config, dtype=dtype)
    return copy.requires_grad_(False).eval()


@contextmanager
def _one_reader(strategy: str) -> Iterator[None]:
    """For FSDP2: transformers reads the weights in one process, accelerate hands them round."""
    if strategy != "fsdp2":
        yield
        return
    with env.changed({"ACCELERATE_USE_FSDP": "true"}):
        yield


# Micro-batches by token count: one optimiser step in several passes of bounded size.


def partition(lengths: Sequence[int], limit: int | None, at_least: int = 1) -> list[list[int]]:
    """Numbers of items in parts whose padded size, items times the longest, is at most `limit`.

    Items of like length share a part: lengths 9 2 3 with a limit of 10 give [[0], [2, 1]].

    Args:
        lengths: tokens of each item; a longer one than `limit` is a part of its own.
        limit: tokens of a part with its padding; None for one part.
        at_least: parts to make, if there are so many items, because another rank has so many.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    parts: list[list[int]] = []
    for item in order:
        if parts and (limit is None or (len(parts[-1]) + 1) * lengths[parts[-1][0]] <= limit):
            parts[-1].append(item)
        else:
            parts.append([item])
    while len(parts) < min(at_least, len(lengths)):
        largest = max(parts, key=len)
        half = len(largest) // 2
        at = parts.index(largest)
        parts[at : at + 1] = [largest[:half], largest[half:]]
    return parts


def same_number(lengths: Sequence[int], limit: int | None) -> list[list[int]]:
    """`partition` into as many parts on every rank, because a sharded model's passes are collective.

    All ranks must have the same number of items.
    """
    parts = partition(lengths, limit)
    return partition(lengths, limit, at_least=max(all_gather_object(len(parts))))


def take(batch: Mapping[str, Any], rows: Sequence[int]) -> dict[str, Any]:
    """Some rows of a batch, without the padding that all of them have.

    Args:
        batch: tensors [rows, tokens]; `pixel_values` [patches, values] and `image_grid_thw` [images, 3]
            with `num_images`, a number per row. In GRPO's, which has `prompt_mask`, prompts are padded
            on the left and completions on the right; SFT's is padded on the right.
        rows: their numbers.
    """
    index = torch.tensor(rows)
    skipped = {"pixel_values", "image_grid_thw", "num_images"}
    part: dict[str, Any] = {
        key: value[index.to(value.device)] if isinstance(value, Tensor) and value.dim() else value
        for key, value in batch.items()
        if key not in skipped
    }
    images = split_rows(batch.get("pixel_values"), batch.get("image_grid_thw"), batch["num_images"])
    part |= join_rows([images[row] for row in rows])
    part["num_images"] = [batch["num_images"][row] for row in rows]
    if "prompt_mask" not in part:
        width = int(part["attention_mask"].sum(1).max())
        return part | {
            key: part[key][:, :width]
            for key in ("input_ids", "attention_mask", "labels", "mm_token_type_ids")
        }
    start = int(part["prompt_mask"].argmax(1).min())
    width = int(part["completion_mask"].sum(1).max())
    prompt, whole = part["prompt_ids"].shape[1], part["mm_token_type_ids"].shape[1]
    part["mm_token_type_ids"] = part["mm_token_type_ids"][:, start : prompt + width]
    assert whole == prompt + part["completion_ids"].shape[1]
    for key in ("prompt_ids", "prompt_mask"):
        part[key] = part[key][:, start:]
    for key in (
        "completion_ids",
        "completion_mask",
        "ref_per_token_logps",
        "importance_sampling_ratio",
        "tool_mask",
    ):
        if key in part:
            part[key] = part[key][:, :width]
    return part


@contextmanager
def last_of_step(trainer: Any, model: Any, last: bool) -> Iterator[None]:
    """Keep gradients on this process in all but the last pass of a step, with DDP.

    FSDP2 and DeepSpeed sum them at every pass, because gradients that wait are not sharded; DeepSpeed
    learns from accelerate's flag when the step is due.
    """
    accelerator = trainer.accelerator
    sync_gradients(accelerator, last)
    try:
        if last or trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled:
            yield
        elif hasattr(model, "no_sync"):
            with model.no_sync():
                yield
        else:
            yield
    finally:
        sync_gradients(accelerator, True)


class ScaledTraining:
    """Trainer mix-in: FSDP2 also on CPUs, and steps in passes of at most `micro_tokens` tokens."""

    micro_tokens: int | None = None

    def create_accelerator_and_postprocess(self) -> None:
        super().create_accelerator_and_postprocess()  # type: ignore[misc]
        shard_on_cpus(self)

    def passes(self, inputs: dict[str, Any]) -> list[tuple[dict[str, Any], float]]:
        """Micro-batches of one step, each with the weight of its loss."""
        raise NotImplementedError

    def training_step(
        self, model: Any, inputs: Any, num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """One training step, made in the passes that `passes` gives instead of in one.

        Returns the weighted sum of their losses, a scalar without gradient.
        """
        trainer: Any = self
        model.train()
        passes = self.passes(to_device(trainer, inputs))
        more = {"scale_wrt_gas": False} if trainer.is_deepspeed_enabled else {}
        total: Tensor | None = None
        for number, (part, weight) in enumerate(passes):
            with last_of_step(trainer, model, number + 1 == len(passes)):
                with trainer.compute_loss_context_manager():
                    loss = trainer.compute_loss(model, part, num_items_in_batch=num_items_in_batch)
                loss = loss * weight
                trainer.accelerator.backward(loss, **more)
            total = loss.detach() if total is None else total + loss.detach()
        assert total is not None
        return total


# Whole weights of a policy, sharded or not, with or without adapters: to generate with, and to save.
#
# One parameter is gathered at a time, so no process holds more than one file of them.

FILE_BYTES = 4 * 2**30  # of one safetensors file
_INDEX = "model.safetensors.index.json"


def base_model(policy: Any) -> Any:
    """The transformers model inside the wrappers of DDP, DeepSpeed and peft."""
    model = getattr(policy, "module", policy)
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def full_weights(policy: Any) -> Iterator[tuple[str, Tensor]]:
    """(name, whole tensor) of every parameter, adapters merged in. Collective: all ranks take part.

    Names are those of the modules, not of the files. A tensor may be the parameter itself.
    """
    model = base_model(policy)
    for module in model.modules():
        if hasattr(module, "reshard"):  # FSDP2 keeps the last layers gathered after a pass
            module.reshard()
    layers = dict(model.named_modules())
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            continue
        owner, _, leaf = name.rpartition(".")
        plain = name.replace(".base_layer.", ".")
        adapted = layers[owner.removesuffix(".base_layer")] if plain != name else None
        whole = _whole(parameter)
        if adapted is not None and leaf == "weight":
            a, b = (_whole(part["default"].weight) for part in (adapted.lora_A, adapted.lora_B))
            whole = whole + (b @ a) * adapted.scaling["default"]
        yield plain, whole


@torch.no_grad()
def _whole(parameter: Tensor) -> Tensor:
    if hasattr(parameter, "full_tensor"):
        gathered: Tensor = parameter.full_tensor()
        return gathered
    sharded = deepspeed_private.gather(parameter)
    return parameter.detach() if sharded is None else sharded


@torch.no_grad()
def copy_weights(policy: Any, copy: Any) -> None:
    """Give `copy`, a whole model, the policy's weights.

    Every rank has to call it. Raises RuntimeError if the policy lacks one of them.
    """
    targets = dict(copy.named_parameters())
    for name, whole in full_weights(policy):
        targets.pop(name).copy_(whole)
    if targets:
        raise RuntimeError(f"the policy has no weights for {sorted(targets)}")


def save_whole(
    policy: Any,
    processor: Any,
    folder: Path,
    dtype: torch.dtype,
    *,
    rank: int = 0,
    world_size: int = 1,
    file_bytes: int = FILE_BYTES,
) -> None:
    """Write a folder that `from_pretrained` and vLLM load. Collective.

    The ranks take turns at writing files, so none gathers the model. The folder gets its name last.

    Args:
        policy: sharded or not, adapters are merged.
        processor: saved beside the weights.
        folder: on a disk that all ranks see.
        dtype: of the weights in the files.
        rank: of this process.
        world_size: processes that call this.
        file_bytes: at most, of one file.
    """
    temporary = folder.with_name(f".{folder.name}.tmp")
    if rank == 0:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
    _barrier(world_size)
    model = base_model(policy)
    sizes = {
        name: deepspeed_private.whole_shape(parameter).numel() * dtype.itemsize
        for name, parameter in model.named_parameters()
        if ".lora_" not in name
    }
    files = plan_files(
        {name.replace(".base_layer.", "."): n for name, n in sizes.items()}, file_bytes
    )
    of = {name: number for number, names in enumerate(files) for name in names}
    mine: dict[str, Tensor] = {}
    for name, whole in full_weights(policy):
        number = of[name]
        if number % world_size == rank:
            mine[name] = whole.to(dtype).cpu().contiguous().clone()
            if len(mine) == len(files[number]):
                renamed = {name_in_file(model, key): tensor for key, tensor in mine.items()}
                save_file(renamed, temporary / _part(number, len(files)), {"format": "pt"})
                mine.clear()
    _barrier(world_size)
    if rank == 0:
        if len(files) > 1:
            places = {
                name_in_file(model, name): _part(number, len(files)) for name, number in of.items()
            }
            index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": places}
            (temporary / _INDEX).write_text(json.dumps(index, indent=1))
        _save_configuration(model, dtype, temporary)
        processor.save_pretrained(temporary)
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
    _barrier(world_size)


def plan_files(sizes: dict[str, int], file_bytes: int) -> list[list[str]]:
    """Names in files of at most `file_bytes`, in order; a larger one has a file of its own."""
    files: list[list[str]] = [[]]
    filled = 0
    for name, size in sizes.items():
        if files[-1] and filled + size > file_bytes:
            files.append([])
            filled = 0
        files[-1].append(name)
        filled += size
    return files


def _save_configuration(model: Any, dtype: torch.dtype, folder: Path) -> None:
    config = type(model.config).from_dict(model.config.to_dict())
    config.dtype = dtype
    config.save_pretrained(folder)
    if model.can_generate():
        model.generation_config.save_pretrained(folder)


def _part(number: int, files: int) -> str:
    if files == 1:
        return "model.safetensors"
    return f"model-{number + 1:05d}-of-{files:05d}.safetensors"


def _barrier(world_size: int) -> None:
    if world_size > 1:
        torch.distributed.barrier()
