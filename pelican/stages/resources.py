"""What a stage used, noted in its manifest: GPUs held, GPU and CPU time."""

from __future__ import annotations

import resource
import sys
from datetime import datetime
from typing import TYPE_CHECKING

from pelican.storage.manifests import now

if TYPE_CHECKING:
    from pelican.stages.spec import StageSpec

ON_CPU = ("reward", "filter")  # stages that ask for no GPU
GENERATING = ("rollout", "distill", "eval")


def cpu_seconds_used() -> float:
    """CPU time of this process and of its children that ended."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    found = [resource.getrusage(kind) for kind in kinds]
    return sum(usage.ru_utime + usage.ru_stime for usage in found)


def gpus_held(spec: StageSpec, processes: int) -> int:
    """GPUs of all processes of this stage; 0 without CUDA."""
    torch = sys.modules.get("torch")
    if spec.stage in ON_CPU or torch is None or not torch.cuda.is_available():
        return 0
    config = spec.recipe.rollout
    vllm = spec.stage in GENERATING and config.engine == "vllm"
    return processes * (config.vllm.tensor_parallel_size if vllm else 1)


def resources(
    spec: StageSpec, processes: int, started: datetime, cpu_seconds: float
) -> dict[str, float]:
    """`gpu_seconds` is wall clock times GPUs; all of the last attempt only."""
    gpus = gpus_held(spec, processes)
    wall = (now() - started).total_seconds()
    return {
        "processes": processes,
        "gpus": gpus,
        "gpu_seconds": round(gpus * wall, 1),
        "cpu_seconds": round(cpu_seconds, 1),
    }
