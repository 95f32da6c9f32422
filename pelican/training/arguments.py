"""From the recipe to the arguments of TRL's trainers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from trl import GRPOConfig, SFTConfig

from pelican.config.recipe import Recipe
from pelican.errors import UserInputError
from pelican.training.distributed import backend_arguments, finish_arguments

# What an algorithm depends on is named here, whatever the default of a library's release is: a test
# fails if one of its arguments, also one that a new release adds, is neither set nor known to do nothing.

_OPTIMISER: dict[str, Any] = {
    "optim": "adamw_torch_fused",
    "optim_args": None,
    "optim_target_modules": None,
    "adam_beta1": 0.9,
    "adam_beta2": 0.999,
    "adam_epsilon": 1e-8,
    "lr_scheduler_kwargs": None,
    "label_smoothing_factor": 0.0,
    "neftune_noise_alpha": None,
    "gradient_accumulation_steps": 1,
    "average_tokens_across_devices": True,
    "use_liger_kernel": False,  # it computes losses of its own
    "router_aux_loss_coef": None,
}
_GRPO: dict[str, Any] = {
    "loss_type": "grpo",  # a mean over the tokens of each completion, then over completions
    "importance_sampling_level": "token",
    # The KL term is weighed by the policy's ratio, so that its gradient is that of the reverse KL.
    "use_bias_correction_kl": True,
    "delta": None,
    "off_policy_mask_threshold": None,
    "top_entropy_quantile": 1.0,
    "entropy_coef": 0.0,
    "use_adaptive_entropy": False,
    "sync_ref_model": False,  # the reference is the policy that the phase started with
    "weight_decay": 0.0,
    "disable_dropout": False,
    "cast_lm_head_to_fp32": False,
    "use_vllm": False,
    "vllm_importance_sampling_correction": False,  # where there is a server `grpo_scale.py` sets both
    "steps_per_generation": 1,
    "shuffle_dataset": False,  # the schedule is drawn in advance
}
_SFT: dict[str, Any] = {
    "loss_type": "nll",
    "lr_scheduler_type": "cosine",
    "completion_only_loss": None,  # the labels say which tokens are learned
    "assistant_only_loss": False,
    "max_length": None,
    "packing": False,
    "padding_free": False,
    "shuffle_dataset": False,
    "train_sampling_strategy": "sequential",  # the schedule is drawn in advance
}


def _common(recipe: Recipe, output: Path, seed: int) -> dict[str, Any]:
    cuda = torch.cuda.is_available()
    common = {
        **_OPTIMISER,
        "output_dir": str(output),
        "seed": seed,
        "data_seed": seed,
        "bf16": recipe.model.dtype == "bfloat16" and cuda,
        "use_cpu": not cuda,
        "gradient_checkpointing": recipe.model.gradient_checkpointing,
        "report_to": "none",
        "disable_tqdm": True,
        "log_level": "error",
        "logging_steps": 5,
        "save_strategy": "steps",
        "save_total_limit": 1,
        "remove_unused_columns": False,
        "ddp_find_unused_parameters": False,
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": cuda,
    }
    return common | backend_arguments(recipe) if recipe.parallel.at_scale else common


def per_process(total: int, processes: int, name: str) -> int:
    """The share of each process in `total` rows of a step.

    Args:
        total: rows of a step.
        processes: that share them.
        name: of the recipe's field with `total`, for the sentence.

    Raises:
        UserInputError: `total` does not divide.
    """
    if total % processes:
        raise UserInputError(
            f"{name} = {total} does not divide by {processes} processes; choose a multiple"
        )
    return total // processes


def grpo_arguments(recipe: Recipe, output: Path, processes: int, seed: int) -> GRPOConfig:
    """Arguments of GRPO; a batch of completions serves `rl.variant.updates` optimiser steps.

    In the first of these the ratio of the clipped loss is 1, so `clip_low` and `clip_high` act only
    from the second on.

    Args:
        recipe: its sections `rl`, `model` and `parallel`.
        output: the folder for checkpoints.
        processes: of the training.
        seed: of everything random.

    Raises:
        UserInputError: the processes can't share the prompts of a step evenly.
    """
    rl = recipe.rl
    prompts = per_process(rl.prompts_per_step, processes, "rl.prompts_per_step")
    arguments = GRPOConfig(
        **_common(recipe, output, seed),
        **_GRPO,
        per_device_train_batch_size=prompts * rl.group_size,
        num_generations=rl.group_size,
        max_completion_length=rl.sampling.max_tokens,
        temperature=rl.sampling.temperature,  # not 0: the recipe sees to it
        top_p=rl.sampling.top_p,
        learning_rate=rl.learning_rate,
        lr_scheduler_type=rl.lr_scheduler,
        warmup_steps=rl.warmup_steps,
        max_steps=rl.max_steps,
        save_steps=rl.save_steps,
        beta=rl.kl,
        epsilon=rl.clip_low,
        epsilon_high=rl.clip_high,
        max_grad_norm=rl.max_grad_norm,
        num_iterations=rl.variant.updates,
        # Said for the record: `grpo.py` makes the advantages and the mask.
        scale_rewards=rl.scale_rewards,
        mask_truncated_completions=rl.mask_truncated,
    )
    return _finish(arguments, recipe)


def sft_arguments(recipe: Recipe, output: Path, processes: int, seed: int, steps: int) -> SFTConfig:
    """Arguments of SFT: the learning rate rises, then falls along a cosine.

    Args:
        recipe: its sections `sft`, `model` and `parallel`.
        output: the folder for checkpoints.
        processes: of the training.
        seed: of everything random.
        steps: optimiser steps.
    """
    sft = recipe.sft
    arguments = SFTConfig(
        **_common(recipe, output, seed),
        **_SFT,
        per_device_train_batch_size=per_process(sft.batch_size, processes, "sft.batch_size"),
        learning_rate=sft.learning_rate,
        warmup_steps=int(sft.warmup_share * steps),
        max_steps=steps,
        save_steps=sft.save_steps,
        weight_decay=sft.weight_decay,
        max_grad_norm=sft.max_grad_norm,
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    return _finish(arguments, recipe)


def _finish(arguments: Any, recipe: Recipe) -> Any:
    return finish_arguments(arguments, recipe) if recipe.parallel.at_scale else arguments
