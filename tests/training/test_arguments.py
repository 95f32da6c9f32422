"""Nothing that an algorithm depends on is left to a library's default."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from trl import GRPOConfig, SFTConfig

from pelican.training import arguments
from tests.training.trainers import recipe, sft_recipe

# Fields that change neither the loss, nor the optimiser, nor what is sampled, nor the order of rows.
# A release's new field is in none of them: say here that it does nothing, or set it in `arguments.py`.
HARMLESS = {
    "logging and names": """logging_strategy logging_first_step log_on_each_node logging_nan_inf_filter
        include_num_input_tokens_seen log_level_replica run_name project trackio_space_id
        trackio_bucket_id trackio_static_space_id debug skip_memory_metrics length_column_name
        label_names""",
    "evaluation by the trainer, of which there is none": """eval_strategy eval_steps eval_delay
        per_device_eval_batch_size prediction_loss_only eval_on_start eval_do_concat_batches
        eval_use_gather_object eval_accumulation_steps include_for_metrics batch_eval_metrics
        bf16_full_eval fp16_full_eval do_train do_eval do_predict load_best_model_at_end
        metric_for_best_model greater_is_better""",
    "checkpoints and the hub": """save_only_model save_on_each_node enable_jit_checkpoint push_to_hub
        hub_token hub_private_repo hub_model_id hub_strategy hub_always_push hub_revision
        ignore_data_skip restore_callback_states_from_checkpoint resume_from_checkpoint""",
    "machines and arithmetic": """fp16 tf32 torch_compile torch_compile_backend torch_compile_mode
        torch_empty_cache_steps auto_find_batch_size gradient_checkpointing_kwargs full_determinism
        accelerator_config parallelism_config dataloader_persistent_workers
        dataloader_prefetch_factor dataloader_multiprocessing_context dataloader_in_order
        ddp_bucket_cap_mb ddp_broadcast_buffers ddp_static_graph ddp_backend ddp_timeout fsdp
        fsdp_config deepspeed local_rank pad_to_multiple_of""",
    "max_steps, or another field that is set, decides": """num_train_epochs dataloader_drop_last
        liger_kernel_config""",
    "models, which Pelican loads": "model_init_kwargs trust_remote_code",
}
GRPO_HARMLESS = HARMLESS | {
    "completions, which Pelican draws": """num_generations_eval ds3_gather_for_generation top_k min_p
        generation_kwargs chat_template_kwargs repetition_penalty cache_implementation
        max_tool_calling_iterations use_transformers_continuous_batching use_cache
        transformers_continuous_batching_config use_transformers_paged generation_batch_size
        vllm_mode vllm_model_impl vllm_enable_sleep_mode vllm_structured_outputs_regex
        vllm_server_base_url vllm_server_host vllm_server_port vllm_server_timeout vllm_group_port
        vllm_gpu_memory_utilization vllm_max_model_length vllm_tensor_parallel_size""",
    "ratios and advantages, which Pelican computes": """vllm_importance_sampling_mode
        vllm_importance_sampling_clip_max vllm_importance_sampling_clip_min
        vllm_importance_sampling_cap reward_weights multi_objective_aggregation""",
    "other losses, and what is switched off": """sapo_temperature_neg sapo_temperature_pos vespo_k_pos
        vespo_lambda_pos vespo_k_neg vespo_lambda_neg ref_model_mixup_alpha ref_model_sync_steps
        entropy_coef_min entropy_coef_max entropy_coef_delta entropy_target""",
    "the order, which the schedule has": "train_sampling_strategy",
    "logged completions": """log_completions log_multimodal num_completions_to_print
        log_unique_prompts log_completions_hub_repo""",
}
SFT_HARMLESS = HARMLESS | {
    "rows, which Pelican encodes": """chat_template_path dataset_text_field dataset_num_proc eos_token
        pad_token truncation_mode packing_strategy eval_packing use_cache""",
    "memory": "activation_offloading",
}


def given(monkeypatch: pytest.MonkeyPatch, work: Path, name: str) -> dict[str, Any]:
    """What is passed to the class of arguments of this name, which is really made."""
    found: dict[str, Any] = {}
    real = getattr(arguments, name)

    def note(**passed: Any) -> Any:
        found.update(passed)
        return real(**passed)

    monkeypatch.setattr(arguments, name, note)
    if name == "GRPOConfig":
        arguments.grpo_arguments(recipe(), work, 1, 0)
    else:
        arguments.sft_arguments(sft_recipe(), work, 1, 0, 10)
    return found


@pytest.mark.parametrize(
    ("kind", "harmless"), [(GRPOConfig, GRPO_HARMLESS), (SFTConfig, SFT_HARMLESS)]
)
def test_every_field_is_set_or_known_to_change_nothing(
    kind: Any, harmless: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    names = {field.name for field in dataclasses.fields(kind)}
    passed = given(monkeypatch, tmp_path, kind.__name__)
    known = {name for group in harmless.values() for name in group.split()}
    assert names - known - passed.keys() == set(), "left to the library's default"
    assert known - names == set(), "no fields of this release"
    assert known & passed.keys() == set(), "set, so not harmless"


def test_the_trainer_reads_what_is_set(tmp_path: Path) -> None:
    made = arguments.grpo_arguments(recipe(kl=0.25), tmp_path, 1, 0)
    assert (made.beta, made.use_bias_correction_kl, made.loss_type) == (0.25, True, "grpo")
    assert (made.scale_rewards, made.importance_sampling_level) == ("group", "token")
    assert not made.mask_truncated_completions
