"""Training at scale: what DeepSpeed and FSDP2 are told, and how a policy is loaded for them.

Masters are float32 always; `model.dtype` is what a pass computes in. A step of 1e-6 is below what
bfloat16 can tell apart, so weights kept in it would not move.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from pelican.engines.prompts import PromptEncoder
from pelican.engines.transformers import prepare_model
from pelican.errors import UserInputError
from pelican.recipe import Recipe

# The units that are gathered for a pass and given up after it.
_BLOCKS = ["Qwen2_5_VLDecoderLayer", "Qwen2_5_VLVisionBlock"]


def backend_arguments(recipe: Recipe) -> dict[str, Any]:
    """What `TrainingArguments` get beside those of every training."""
    mixed = recipe.model.dtype == "bfloat16"
    arguments: dict[str, Any] = {"bf16": mixed}
    if recipe.parallel.strategy != "ddp" and int(os.environ.get("WORLD_SIZE", "1")) == 1:
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
    """What `TrainingArguments` have no word for: gradients are summed and logits kept in float32."""
    if recipe.parallel.strategy == "zero3" and not torch.cuda.is_available():
        _deepspeed_on_cpus()
    if arguments.fsdp_plugin_args is not None and recipe.model.dtype == "bfloat16":
        from torch.distributed.fsdp import MixedPrecisionPolicy

        arguments.fsdp_plugin_args["mixed_precision_policy"] = MixedPrecisionPolicy(
            param_dtype=torch.bfloat16, reduce_dtype=torch.float32, output_dtype=torch.float32
        )
    return arguments


def _deepspeed_on_cpus() -> None:
    """DeepSpeed over the gloo group that the arguments opened.

    accelerate does this on accelerators alone. Without, DeepSpeed counts one process while weights
    are read.
    """
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed

    # It would compile a collective through shared memory, where there is a compiler; gloo is enough.
    deepspeed.ops.__compatible_ops__ = {}
    deepspeed.comm.init_distributed(dist_backend="gloo")


class ShardedOnCpus:
    """Trainer mix-in: FSDP2 also without a GPU.

    On CPUs accelerate takes FSDP's plugin and trains whole copies without a word.
    """

    def create_accelerator_and_postprocess(self) -> None:
        super().create_accelerator_and_postprocess()  # type: ignore[misc]
        trainer: Any = self
        asked = trainer.args.fsdp_plugin_args
        if asked is None or trainer.is_fsdp_enabled:
            return
        from accelerate.state import PartialState
        from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

        state = trainer.accelerator.state
        state.distributed_type = DistributedType.FSDP
        PartialState._shared_state["distributed_type"] = DistributedType.FSDP  # else it comes back
        state.fsdp_plugin = FullyShardedDataParallelPlugin(**asked)
        trainer.is_fsdp_enabled = True


def load_for_training(recipe: Recipe, checkpoint: Path) -> tuple[Any, PromptEncoder]:
    """The policy in float32, frozen in part or with adapters as the recipe says.

    Called after the arguments were made: DeepSpeed then shards the weights while they are read, and
    with FSDP2 one process of a machine reads them for all.
    """
    from transformers import AutoProcessor

    policy = load_weights(recipe, checkpoint, torch.float32)
    policy.config._name_or_path = str(checkpoint)
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


def load_weights(recipe: Recipe, checkpoint: Path, dtype: torch.dtype) -> Any:
    """The checkpoint's model, where the strategy wants it."""
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
    if recipe.parallel.strategy == "ddp" and torch.cuda.is_available():
        policy = policy.to(torch.device("cuda", torch.cuda.current_device()))
    return policy


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
    before = os.environ.get("ACCELERATE_USE_FSDP")
    os.environ["ACCELERATE_USE_FSDP"] = "true"
    try:
        yield
    finally:
        if before is None:
            del os.environ["ACCELERATE_USE_FSDP"]
        else:
            os.environ["ACCELERATE_USE_FSDP"] = before


@contextmanager
def unsharded() -> Iterator[None]:
    """A model made meanwhile is whole also while DeepSpeed would shard it."""
    from transformers.integrations import deepspeed

    kept = deepspeed._hf_deepspeed_config_weak_ref
    deepspeed._hf_deepspeed_config_weak_ref = None
    try:
        yield
    finally:
        deepspeed._hf_deepspeed_config_weak_ref = kept
