"""The work of the commands that pods run: one stage, one generation server."""

from __future__ import annotations

import json
import signal
import sys
from contextlib import suppress
from pathlib import Path

from pydantic import ValidationError

from pelican.base.disk import explain_disk
from pelican.base.pod import ERRORS
from pelican.base.process import die_with_parent
from pelican.config import env
from pelican.config.presets import find_recipe
from pelican.config.stages import STAGES
from pelican.errors import (
    STAGE_DAMAGED,
    DamagedError,
    LostPeerError,
    PelicanError,
    ResourceError,
    UserInputError,
)
from pelican.monitoring.progress import emit

# `pelican generation-server`: samples the completions of a training that runs in another pod.


def serve_completions(
    address: str,
    overrides: list[str],
    checkpoint: str | None,
    folder: str | None,
    host: str,
    port: int,
) -> None:
    """Until the process is ended. The recipe is that of the training."""
    recipe = find_recipe(address, overrides)
    folder = folder or env.generation_folder()
    if folder is None:
        raise UserInputError(
            f"give --folder, or set {env.GENERATION_FOLDER}: where the training leaves weights"
        )
    from pelican.engines.server import ServerSpec, serve

    spec = ServerSpec(
        recipe=recipe,
        checkpoint=str(Path(checkpoint or env.resolve(recipe.models.policy)).absolute()),
        folder=str(Path(folder).absolute()),
        host=host,
        port=port,
    )
    with suppress(KeyboardInterrupt):
        serve(spec)


# `pelican stage NAME --spec FILE`: what every launcher starts.

# How gloo and NCCL say that another process of the job is gone.
_LOST_PEER = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Connection refused",
    "Broken pipe",
    "Socket closed",
    "remote process exited",
    "Timed out waiting",
    "TCPStore",
)


def run_spec(name: str, path: str) -> None:
    """Run the stage of a specification. Its exit code tells the launcher what kind of end it was."""
    die_with_parent()
    # A stage is resumable at any moment, so SIGTERM may end it as any exception would.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        env.check()
        _run(name, path)
    except DamagedError as error:
        _report(error, STAGE_DAMAGED)
        raise SystemExit(STAGE_DAMAGED) from None
    except PelicanError as error:
        _report(error, error.exit_code)
        raise
    except Exception as error:
        meant = _meaning(name, error) or explain_disk(error)
        if meant is None:
            _note(f"{type(error).__name__}: {error}".splitlines()[0], 1)
            raise
        _report(meant, meant.exit_code)
        raise meant from error


def _meaning(name: str, error: Exception) -> PelicanError | None:
    """The error that a person can act on: memory ran out, or another process is gone; None for a bug."""
    if _out_of_memory(error):
        return ResourceError(
            f"{name}: out of memory ({error}); a run with a smaller {STAGES[name].memory} may fit"
        )
    several = env.world_size() > 1
    if several and isinstance(error, RuntimeError) and any(w in str(error) for w in _LOST_PEER):
        first = str(error).strip().splitlines()[0]
        return LostPeerError(f"{name}: another process of the job is gone ({first})")
    return None


def _report(error: PelicanError, code: int) -> None:
    """In the log, and where a pod's first process looks."""
    kind = type(error).__name__
    emit("error", {"message": str(error), "exit_code": code, "kind": kind})
    _note(str(error), code)


def _note(message: str, code: int) -> None:
    folder = env.read(ERRORS)
    if folder:
        note = Path(folder, f"{env.rank()}.json")
        note.write_text(json.dumps({"message": message, "exit_code": code}))


def _run(name: str, path: str) -> None:
    from pelican.config.overrides import nearest
    from pelican.stages.runner import run_stage
    from pelican.stages.stage import StageSpec
    from pelican.storage import local_path

    if name not in STAGES:
        raise UserInputError(f"there is no stage {name!r}{nearest(name, STAGES)}")
    try:
        spec = StageSpec.model_validate_json(local_path(path).read_bytes())
    except OSError as error:
        raise UserInputError(f"the specification {path} cannot be read: {error.strerror}") from None
    except KeyError:
        raise UserInputError(f"there is no specification {path}") from None
    except ValidationError as error:
        first = error.errors()[0]
        field = "".join(f"{part}: " for part in first["loc"])
        raise UserInputError(f"the specification {path}: {field}{first['msg']}") from None
    if spec.stage != name:
        raise UserInputError(f"the specification {path} is of stage {spec.stage!r}, not {name!r}")
    run_stage(spec)


def _out_of_memory(error: Exception) -> bool:
    """Python's or torch's, without importing torch."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and "not enough memory" in str(error)
