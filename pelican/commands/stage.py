"""`pelican stage NAME --spec FILE`: what every launcher starts."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from pydantic import ValidationError

from pelican.errors import PelicanError, ResourceError, UserInputError
from pelican.launch.leash import die_with_parent
from pelican.telemetry.events import emit

# The recipe's field that a stage's memory grows with.
_SIZES = {
    "rollout": "rollout.batch_size",
    "reward": "rollout.shard_size",
    "filter": "data.samples_per_loop",
    "train-rl": "rl.prompts_per_step",
    "distill": "rollout.batch_size",
    "train-sft": "sft.batch_size",
    "eval": "rollout.batch_size",
}


def run_spec(name: str, path: Path) -> None:
    """Run the stage of a specification. Its exit code tells the launcher what kind of end it was."""
    die_with_parent()
    # A stage is resumable at any moment, so SIGTERM may end it as any exception would.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        _run(name, path)
    except PelicanError as error:
        emit("error", {"message": str(error), "exit_code": error.exit_code})
        raise
    except Exception as error:
        if not _out_of_memory(error):
            raise
        told = ResourceError(
            f"{name}: out of memory ({error}); a run with a smaller {_SIZES[name]} may fit"
        )
        emit("error", {"message": str(told), "exit_code": told.exit_code})
        raise told from error


def _run(name: str, path: Path) -> None:
    from pelican.recipes.overrides import nearest
    from pelican.stages.base import STAGES, StageSpec, run_stage

    if name not in STAGES:
        raise UserInputError(f"there is no stage {name!r}{nearest(name, STAGES)}")
    try:
        spec = StageSpec.model_validate_json(path.read_bytes())
    except OSError as error:
        raise UserInputError(f"the specification {path} cannot be read: {error.strerror}") from None
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise UserInputError(f"the specification {path}: {field}: {first['msg']}") from None
    if spec.stage != name:
        raise UserInputError(f"the specification {path} is of stage {spec.stage!r}, not {name!r}")
    run_stage(spec)


def _out_of_memory(error: Exception) -> bool:
    """Python's or torch's, without importing torch."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and "not enough memory" in str(error)
