"""What training uses of its libraries beyond their documented interface, by name and signature.

A new version that renames one fails here; the modules `*_private.py` are then the only ones to change.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
from collections.abc import Iterator
from operator import attrgetter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from pelican.training.grpo_scale import ScaledGrpoTrainer
from pelican.training.sft import ScaledSftTrainer
from pelican.training.variants import VariantGrpoTrainer
from tests.conftest import ROOT
from tests.training.trainers import grpo, letters

PRIVATE = sorted((ROOT / "pelican" / "training").glob("*_private.py"))
OTHERS = sorted(set((ROOT / "pelican" / "training").glob("*.py")) - set(PRIVATE))
LIBRARIES = ("trl", "transformers", "accelerate", "deepspeed", "torch", "peft")

# module, name in it, parameters that are passed or taken, in their order
SIGNATURES = [
    ("trl", "GRPOTrainer._prepare_inputs", "self, generation_batch"),
    (
        "trl",
        "GRPOTrainer._get_per_token_logps_and_entropies",
        "self, model, input_ids, attention_mask, logits_to_keep, batch_size, compute_entropy,"
        " compute_aux_loss, pixel_values, image_grid_thw, num_images, pixel_attention_mask,"
        " spatial_shapes, num_tiles, image_sizes, token_type_ids, mm_token_type_ids,"
        " image_position_ids",
    ),
    ("trl", "GRPOTrainer._compute_loss", "self, model, inputs"),
    ("trl", "GRPOTrainer.training_step", "self, model, inputs, num_items_in_batch"),
    (
        "trl.trainer.utils",
        "add_fused_lm_head",
        "model, temperature, cast_lm_head_to_fp32, outputs",
    ),
    ("trl.models", "prepare_deepspeed", "model, accelerator"),
    ("transformers", "Trainer._load_from_checkpoint", "self, resume_from_checkpoint, model"),
    ("transformers", "Trainer._prepare_inputs", "self, inputs"),
    ("transformers", "Trainer.create_accelerator_and_postprocess", "self"),
    ("transformers.core_model_loading", "revert_weight_conversion", "model, state_dict"),
    ("accelerate.state", "GradientState._set_sync_gradients", "self, sync_gradients"),
    ("accelerate.utils.fsdp_utils", "fsdp2_prepare_model", "accelerator, model"),
    ("deepspeed.comm", "init_distributed", "dist_backend"),
    ("torch.distributed.checkpoint.utils", "_create_file_view", "file, offset, length"),
    ("transformers.trainer_pt_utils", "safe_globals", ""),
]
ATTRIBUTES = [
    ("transformers.integrations.deepspeed", "_hf_deepspeed_config_weak_ref", type(None)),
    ("accelerate.state", "PartialState._shared_state", dict),
    ("deepspeed", "ops.__compatible_ops__", dict),
    ("deepspeed.runtime.zero", "GatheredParameters", type),
    ("deepspeed.runtime.fp16.loss_scaler", "LossScaler", type),
    ("deepspeed.runtime.zero.config", "ZeroStageEnum", type),
    ("torch.distributed.checkpoint.filesystem", "pickle", ModuleType),
    ("torch.distributed.checkpoint.metadata", "Metadata", type),
]


def find(module: str, name: str) -> Any:
    if importlib.util.find_spec(module.partition(".")[0]) is None:
        pytest.skip(f"{module}, of the extra 'gpu', is not installed")
    return attrgetter(name)(importlib.import_module(module))


@pytest.mark.parametrize(("module", "name", "parameters"), SIGNATURES)
def test_a_function_has_the_parameters_that_training_knows(
    module: str, name: str, parameters: str
) -> None:
    found = list(inspect.signature(find(module, name)).parameters)
    assert found[: parameters.count(",") + 1] == (parameters.split(", ") if parameters else [])


@pytest.mark.parametrize(("module", "name", "kind"), ATTRIBUTES)
def test_an_attribute_is_there(module: str, name: str, kind: type) -> None:
    assert isinstance(find(module, name), kind)


def test_a_trainer_keeps_its_metrics_and_its_steps_where_they_are_written(
    twin: Path, tmp_path: Path
) -> None:
    trainer = grpo(twin, tmp_path, letters, [], max_steps=1)
    trainer.record_metric("quantity", 2.0)
    assert trainer._metrics["train"]["quantity"] == [2.0]
    assert trainer._step == 0
    trainer.count_step()
    trainer.count_step()
    assert trainer._step == 2
    # Which loss TRL computes, and with what: set or read in `grpo.py` and `grpo_scale.py`.
    for name in ("beta", "ref_model", "temperature", "use_vllm", "model_accepts_loss_kwargs"):
        assert hasattr(trainer, name), name
    assert hasattr(trainer, "vllm_importance_sampling_correction")


def test_the_loss_reads_the_ratios_that_are_handed_over(twin: Path, tmp_path: Path) -> None:
    """`importance_sampling_ratio` weighs the loss of a trainer that says it has a server."""
    trainer = grpo(twin, tmp_path, letters, [], max_steps=1)
    batch = trainer.next_batch([{"sample": i // 4} for i in range(16)])
    batch["advantages"] = torch.ones(16)
    loss = trainer.grpo_loss(trainer.model, batch)
    trainer.use_vllm = trainer.vllm_importance_sampling_correction = True
    batch["importance_sampling_ratio"] = torch.zeros(batch["completion_ids"].shape)
    assert loss.item() == pytest.approx(-1) and trainer.grpo_loss(trainer.model, batch) == 0


@pytest.mark.parametrize("trainer", [ScaledGrpoTrainer, VariantGrpoTrainer, ScaledSftTrainer])
def test_no_method_of_ours_replaces_a_private_one_elsewhere(trainer: type) -> None:
    theirs = {
        name
        for base in trainer.__mro__
        if base.__module__.partition(".")[0] in LIBRARIES
        for name in vars(base)
    }
    replaced = [
        f"{base.__module__}: {name}"
        for base in trainer.__mro__
        if base.__module__ in {f"pelican.training.{path.stem}" for path in OTHERS}
        for name in vars(base)
        if name in theirs and name.startswith("_") and not name.startswith("__")
    ]
    assert replaced == []


def private_names(path: Path) -> Iterator[tuple[int, str]]:
    """Attributes with an underscore that are read or written in a file."""
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Attribute(attr=name) if name.startswith("_") and not name.endswith("__"):
                yield node.lineno, name
            case ast.ImportFrom(module=str(module)) if module.startswith(LIBRARIES):
                yield from ((node.lineno, a.name) for a in node.names if a.name.startswith("_"))


def own_names() -> set[str]:
    """Attributes with an underscore that Pelican's own classes define."""
    found: set[str] = set()
    for path in OTHERS:
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.FunctionDef(name=name):
                    found.add(name)
                case ast.AnnAssign(target=ast.Name(id=name)):
                    found.add(name)
                case ast.Attribute(value=ast.Name(id="self"), attr=name, ctx=ast.Store()):
                    found.add(name)
    return found


def test_no_other_file_of_training_knows_a_private_attribute() -> None:
    own = own_names()
    found = [
        f"{path.name}:{line}: {name}"
        for path in OTHERS
        for line, name in private_names(path)
        if name not in own
    ]
    assert found == []
