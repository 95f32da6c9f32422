"""How a step of a pipeline fails: a line in its log, `failure.json` in the run, an exit status."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from pelican.base.disk import explained
from pelican.errors import InfrastructureError, PelicanError
from pelican.monitoring.progress import Event, emit
from pelican.runs.layout import FAILURE, run_prefix
from pelican.storage.store import ObjectStore

_BY_SIGNAL = 128  # and its number: how a shell puts that a signal ended a process


@contextmanager
def record_failure(
    store: ObjectStore, run: str, stage: str, loop: int = 0, phase: str = "base"
) -> Iterator[None]:
    """A step of a run: of a PelicanError inside, write `failure.json` and print the sentence.

    What a disk refuses is such an error, too. That the failure can't be written never hides it.

    Args:
        store: where the run lies.
        run: its name.
        stage: the stage, or another step of the pipeline such as `preflight`.
        loop: of the stage; 0 is before the first.
        phase: of the stage.

    Raises:
        SystemExit: with the error's exit status, in place of the error.
    """
    step: Event = {"stage": stage, "loop": loop, "phase": phase}
    try:
        with explained():
            yield
    except PelicanError as error:
        failure: Event = {
            **step,
            "kind": type(error).__name__,
            "exit_code": error.exit_code,
            "message": str(error),
        }
        emit("event", {"event": "failed", **failure})
        with suppress(PelicanError):
            store.write(f"{run_prefix(run)}/{FAILURE}", json.dumps(failure, indent=1).encode())
        print(f"error: {error}", file=sys.stderr, flush=True)
        raise SystemExit(error.exit_code) from None
    except SystemExit as ended:
        if isinstance(ended.code, int) and ended.code > _BY_SIGNAL:
            name = signal.Signals(ended.code - _BY_SIGNAL).name
            message = f"was ended by {name}; the same command continues the run"
            code = InfrastructureError.exit_code
            emit("event", {"event": "failed", **step, "exit_code": code, "message": message})
        raise
