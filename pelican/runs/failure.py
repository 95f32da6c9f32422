"""How a step of a pipeline fails: a line in its log, `failure.json` in the run, an exit status."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from pelican.errors import PelicanError
from pelican.monitoring.progress import Event, emit
from pelican.runs.layout import FAILURE, run_prefix
from pelican.storage.store import ObjectStore


@contextmanager
def record_failure(
    store: ObjectStore, run: str, stage: str, loop: int = 0, phase: str = "base"
) -> Iterator[None]:
    """A step of a run: of a PelicanError inside, write `failure.json` and print the sentence.

    Args:
        store: where the run lies.
        run: its name.
        stage: the stage, or another step of the pipeline such as `preflight`.
        loop: of the stage; 0 is before the first.
        phase: of the stage.

    Raises:
        SystemExit: with the error's exit status, in place of the error.
    """
    try:
        yield
    except PelicanError as error:
        failure: Event = {
            "stage": stage,
            "loop": loop,
            "phase": phase,
            "kind": type(error).__name__,
            "exit_code": error.exit_code,
            "message": str(error),
        }
        emit("event", {"event": "failed", **failure})
        store.write(f"{run_prefix(run)}/{FAILURE}", json.dumps(failure, indent=1).encode())
        print(f"error: {error}", file=sys.stderr, flush=True)
        raise SystemExit(error.exit_code) from None
