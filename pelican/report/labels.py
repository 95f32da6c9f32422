"""Runs by the names that tell them apart, also those of several stores."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from pelican.report.run import Run, open_run
from pelican.storage.objects import ObjectStore, open_store

_PART = "/runs/"


def open_address(address: str, default: ObjectStore) -> Run:
    """A run by its name in `default`, or by its address in another store: `<store>/runs/<run>`.

    Raises UserInputError if there is none.
    """
    store, separator, name = address.rstrip("/").rpartition(_PART)
    if not separator:
        return open_run(default, address)
    return open_run(open_store(store), name)


def labelled(runs: Sequence[Run]) -> dict[str, Run]:
    """Each run by its name; by name and store where two stores have a run of that name."""
    count = Counter(run.name for run in runs)
    found: dict[str, Run] = {}
    for run in runs:
        label = run.name if count[run.name] == 1 else f"{run.name} in {run.store.uri}"
        found.setdefault(label, run)
    return found
