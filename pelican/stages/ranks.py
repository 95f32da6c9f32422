"""The processes of one job."""

from __future__ import annotations

import os
from datetime import timedelta


class Ranks:
    """The processes of one job; alone unless torchrun started several. Torch only if several."""

    def __init__(self) -> None:
        self.rank = int(os.environ.get("RANK", "0"))
        self.size = int(os.environ.get("WORLD_SIZE", "1"))
        if self.size > 1:
            import torch
            import torch.distributed as dist

            if not dist.is_initialized():
                backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
                # A rank that fails is seen by torchrun; a slow one may take hours.
                dist.init_process_group(backend, timeout=timedelta(hours=24))

    def leave(self) -> None:
        """End the group, so that torch does not complain about it at exit."""
        if self.size > 1:
            import torch.distributed as dist

            dist.destroy_process_group()
