"""Whole weights of a policy that is sharded, adapted or neither: to generate with, and to save.

One parameter is gathered at a time, so no process ever holds more than a file of them.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

FILE_BYTES = 4 * 2**30  # of one safetensors file
_INDEX = "model.safetensors.index.json"


def base_model(policy: Any) -> Any:
    """The transformers model inside wrappers of DDP, DeepSpeed and peft."""
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
    if hasattr(parameter, "ds_id"):
        from deepspeed.runtime.zero import GatheredParameters

        with GatheredParameters([parameter]):
            return parameter.detach().clone()
    return parameter.detach()


@torch.no_grad()
def copy_weights(policy: Any, copy: Any) -> None:
    """Bring `copy`, a whole model, to the policy's weights. Collective."""
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
    """A folder that `from_pretrained` and vLLM load. Collective; `folder` is seen by all ranks.

    The ranks take turns at writing files, so none gathers the model. The folder gets its name last.
    """
    temporary = folder.with_name(f".{folder.name}.tmp")
    if rank == 0:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
    _barrier(world_size)
    model = base_model(policy)
    sizes = {
        name: shape.numel() * dtype.itemsize
        for name, shape in _shapes(model)
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
                renamed = {_file_name(model, key): tensor for key, tensor in mine.items()}
                save_file(renamed, temporary / _part(number, len(files)), {"format": "pt"})
                mine.clear()
    _barrier(world_size)
    if rank == 0:
        if len(files) > 1:
            places = {
                _file_name(model, name): _part(number, len(files)) for name, number in of.items()
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


def _shapes(model: Any) -> Iterator[tuple[str, torch.Size]]:
    for name, parameter in model.named_parameters():
        yield name, getattr(parameter, "ds_shape", parameter.shape)


def _file_name(model: Any, name: str) -> str:
    """Files keep the names of the checkpoint that was loaded; modules may have newer ones."""
    from transformers.core_model_loading import revert_weight_conversion

    names = list(revert_weight_conversion(model, {name: torch.empty(1, device="meta")}))
    if len(names) != 1:
        raise RuntimeError(f"the weight {name!r} is not one tensor of a file but {names}")
    return str(names[0])


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
