"""What a run is that ended: its stages, their bytes, its scores; and how it deviates from one without faults."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pelican.base.files import is_locked
from pelican.errors import PelicanError
from pelican.storage.manifests import read_manifest
from pelican.storage.store import MANIFEST, WORK, FolderStore
from pelican.storage.verify import find_damage
from tests.faults.site import RUN, Ended, Site, wait_until

Snapshot = dict[str, Any]


def take(site: Site) -> Snapshot:
    """The run as it is now: by the records, and what of the bytes is not as they say."""
    store, prefix = site.store, f"runs/{RUN}"
    keys = list(store.keys(prefix))
    stages: dict[str, Any] = {}
    damaged: list[str] = []
    for key in keys:
        at = key.removesuffix(f"/{MANIFEST}")
        if at == key or at.startswith(f"{prefix}/replaced/"):
            continue
        try:
            made = read_manifest(store, at)
        except PelicanError as error:
            damaged.append(f"{key}: {error}")
            continue
        stages[at] = {
            "files": {
                file.path: file.sha256 for file in made.outputs if file.path not in site.form.timed
            },
            "counts": made.counts,
            "metrics": {} if site.form.timed else made.metrics,
            "recipe": made.recipe,
            "inputs": made.inputs,
        }
        for file in made.outputs:
            try:
                damaged += find_damage(store, {f"{at}/{file.path}": file}, trust=False)
            except PelicanError:
                damaged.append(f"{at}/{file.path}")
    summary: dict[str, Any] = {}
    with suppress(KeyError, ValueError, PelicanError):
        summary = json.loads(store.read(f"{prefix}/summary.json"))
    return {
        "stages": stages,
        "damaged": damaged,
        "told": summary.get("damaged", []),
        "state": summary.get("state"),
        "scores": summary.get("scores"),
        "keys": [key for key in keys if not key.startswith(f"{prefix}/logs/")],
    }


def compare(before: Snapshot, after: Snapshot) -> list[str]:
    """How a run deviates from the reference."""
    found = []
    expected = {"state": before["state"], "scores": _scores(before, after["told"])}
    for name, value in expected.items():
        if (there := _scores(after, after["told"]) if name == "scores" else after[name]) != value:
            found.append(f"{name}: {there!r} instead of {value!r}")
    for prefix in sorted(before["stages"].keys() | after["stages"].keys()):
        old, new = before["stages"].get(prefix, {}), after["stages"].get(prefix, {})
        differ = [name for name in (old or new) if old.get(name) != new.get(name)]
        if differ:
            found.append(f"{prefix}: {', '.join(differ)} differ")
    silent = set(after["damaged"]) - set(after["told"])
    found += [f"{key} is damaged and nobody told" for key in sorted(silent)]
    work = f"/{WORK}"
    extra = {key for key in after["keys"] if work not in key} - set(before["keys"])
    found += [f"left: {key}" for key in sorted(extra) if "/replaced/" not in key]
    # What only helps a next attempt may be missing, and what no stage needs any more, if that was told.
    missing = {key for key in before["keys"] if work not in key} - set(after["keys"])
    return found + [f"missing: {key}" for key in sorted(missing - set(after["told"]))]


def _scores(snapshot: Snapshot, told: list[str]) -> list[dict[str, Any]] | None:
    """The scores; of an evaluation whose damaged summary was told those that its manifest has, too."""
    short = ("loop", "phase", "embodied", "general")
    scores: list[dict[str, Any]] | None = snapshot["scores"]
    return scores and [
        {name: one[name] for name in short}
        if f"runs/{RUN}/loop-{one.get('loop')}/eval-{one.get('phase')}/summary.json" in told
        else one
        for one in scores
    ]


def judge_words(ended: Ended, statuses: frozenset[int], what: str) -> list[str]:
    """Whether a command said one sentence and ended with one of the statuses."""
    found = []
    if ended.status not in statuses:
        found.append(f"{what}: status {ended.status}: {ended.err.strip()[-300:]}")
    if "Traceback" in ended.out + ended.err or "panicked" in ended.err:
        found.append(f"{what}: a traceback: {(ended.out + ended.err).strip()[-300:]}")
    lines = ended.err.strip().splitlines()
    # A step that a signal ended says so to the submission that follows it, by an event.
    by_signal = ended.status > 128 and '"event": "failed"' in ended.out
    if (
        ended.status > 0
        and not by_signal
        and sum(line.startswith("error: ") for line in lines) != 1
    ):
        found.append(f"{what}: not one sentence: {lines[-3:]}")
    return found


def find_leftovers(site: Site) -> tuple[list[str], list[str]]:
    """What is left of a fault, and what may be: temporary files of killed writers, what stands aside."""
    found, listed = [], []
    if not wait_until(lambda: not site.processes(), 20, 0.5):
        found += [f"still runs: {process.cmdline()[:6]}" for process in site.processes()]
    store = site.store
    listed += [f"aside: {key}" for key in store.keys(f"runs/{RUN}/replaced")]
    listed += [f"temporary: {key}" for key in store.abandoned()]
    if isinstance(store, FolderStore):
        locks = Path(site.uri).rglob("*.lock")
        found += [f"locked: {path.relative_to(site.uri)}" for path in locks if is_locked(path)]
    return found, listed


def judge_readers(site: Site) -> list[str]:
    """Whether what only reads the store goes on, and moves nothing."""

    def files() -> Mapping[str, tuple[int, int]]:
        if not isinstance(site.store, FolderStore):
            return {key: (0, 0) for key in site.store.keys("")}
        paths = [path for path in Path(site.uri).rglob("*") if path.is_file()]
        return {str(p): (p.stat().st_size, p.stat().st_mtime_ns) for p in paths}

    found, before = [], files()
    for words in (("runs",), ("show", RUN), ("show", RUN, "--verify")):
        found += judge_words(site.read(*words), frozenset({0, 2}), " ".join(words))
    if files() != before:
        found.append("a reader changed the store")
    return found
