"""How a step of a pipeline fails: told in the log, kept in the run, one sentence, an exit status."""

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
def told(
    store: ObjectStore, run: str, stage: str, loop: int = 0, phase: str = "base"
) -> Iterator[None]:
    """Of a PelicanError inside write `failure.json`, print its sentence, and end the process."""
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
