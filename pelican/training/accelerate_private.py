"""What Pelican's training uses of accelerate 1.15 beyond its documented interface.

tests/training/test_private.py checks the names and the parameters.
"""

from __future__ import annotations

from typing import Any

from accelerate.state import PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin


def sync_gradients(accelerator: Any, on: bool) -> None:
    """Tell accelerate whether the next backward pass is the last one of its optimiser step (`on`)."""
    accelerator.gradient_state._set_sync_gradients(on)


def shard_on_cpus(trainer: Any) -> None:
    """Turn FSDP2 on for a trainer that asked for it, also without a GPU.

    accelerate takes FSDP's plugin on CPUs and trains whole copies without a word.
    """
    plugin = trainer.args.fsdp_plugin_args
    if plugin is None or trainer.is_fsdp_enabled:
        return
    state = trainer.accelerator.state
    state.distributed_type = DistributedType.FSDP
    # Every new AcceleratorState copies it from there, and would undo the line above.
    PartialState._shared_state["distributed_type"] = DistributedType.FSDP
    state.fsdp_plugin = FullyShardedDataParallelPlugin(**plugin)
    trainer.is_fsdp_enabled = True
