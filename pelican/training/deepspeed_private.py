"""What Pelican's training uses of DeepSpeed 0.19 beyond its documented interface.

tests/training/test_private.py checks the names, where DeepSpeed is installed.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pelican.config import env


def run_on_cpus() -> None:
    """Let DeepSpeed use the gloo group that the trainer's arguments opened.

    accelerate does this on accelerators alone; without it DeepSpeed counts one process while weights
    are read.
    """
    env.set_default("DS_ACCELERATOR", "cpu")
    import deepspeed

    # Else it compiles a collective over shared memory, where there is a compiler; gloo is enough.
    deepspeed.ops.__compatible_ops__ = {}
    deepspeed.comm.init_distributed(dist_backend="gloo")


def whole_shape(parameter: Tensor) -> torch.Size:
    """The shape of a parameter that ZeRO-3 may have sharded."""
    shape: torch.Size = getattr(parameter, "ds_shape", parameter.shape)
    return shape


def gather(parameter: Any) -> Tensor | None:
    """A copy of the whole parameter if ZeRO-3 has sharded it, else None.

    Every rank has to call it.
    """
    if not hasattr(parameter, "ds_id"):
        return None
    from deepspeed.runtime.zero import GatheredParameters

    with GatheredParameters([parameter]):
        whole: Tensor = parameter.detach().clone()
    return whole


def data_types() -> list[Any]:
    """What DeepSpeed's checkpoints name beside tensors: numbers in classes of its own."""
    from deepspeed.runtime.fp16.loss_scaler import LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum

    return [LossScaler, ZeroStageEnum]
