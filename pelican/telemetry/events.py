"""Events of a run as lines of a log, so that they pass through processes, pods and Kubeflow.

A stage prints `::progress {…}` (see `pelican.stages.context`); who launches it prints `::event {…}`
at its start and end. Whoever follows the log picks the lines out again.
"""

from __future__ import annotations

import json
from typing import Any, Literal

PROGRESS = "::progress "
EVENT = "::event "
ERROR = "::error "

Event = dict[str, Any]
Kind = Literal["progress", "event", "error"]
_PREFIXES: dict[Kind, str] = {"progress": PROGRESS, "event": EVENT, "error": ERROR}


def emit(kind: Kind, event: Event) -> None:
    """Print one event as a line of its own."""
    print(_PREFIXES[kind] + json.dumps(event, default=str), flush=True)


def parse(line: str) -> tuple[Kind, Event] | None:
    """The event in a line, or None. Indentation (Kubeflow's local runner) is ignored."""
    text = line.strip()
    if not text.startswith("::"):
        return None
    for kind, prefix in _PREFIXES.items():
        if text.startswith(prefix):
            try:
                event = json.loads(text.removeprefix(prefix))
            except ValueError:
                return None  # two processes wrote into one line
            return (kind, event) if isinstance(event, dict) else None
    return None
