"""What the processes of a job tell each other; alone, a process hears itself. Torch only if several."""

from __future__ import annotations

import sys
from typing import Any


def from_all(value: Any, group: Any = None) -> list[Any]:
    """The values of all ranks (of a process group, if not the default one); waits for the slowest."""
    dist = _several()
    if dist is None:
        return [value]
    values: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(values, value, group=group)
    return values


def from_first(value: Any) -> Any:
    """The value that rank 0 gave."""
    dist = _several()
    if dist is None:
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def _several() -> Any:
    """torch.distributed, if there is a group of more than this process."""
    if "torch" not in sys.modules:
        return None
    import torch.distributed as dist

    return dist if dist.is_initialized() and dist.get_world_size() > 1 else None
