"""Whole copies of damaged files: in this machine's cache, in the registry, in another run of the store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pelican.errors import DamagedError
from pelican.runs.layout import run_prefix
from pelican.stages.replace import REPLACED
from pelican.storage.digests import file_digest
from pelican.storage.manifests import OutputFile
from pelican.storage.store import MANIFEST, ObjectStore
from pelican.storage.verify import REGISTRY, VERSION, Recorded, find_damage, read_record


def recorded_files(store: ObjectStore, run: str) -> dict[str, OutputFile]:
    """Every file of a run that a manifest names, by key; what lies aside is left out."""
    prefix = run_prefix(run)
    found: dict[str, OutputFile] = {}
    for key in store.keys(prefix):
        if not key.endswith(f"/{MANIFEST}") or key.startswith(f"{prefix}/{REPLACED}/"):
            continue
        recorded = read_record(store, key.removesuffix(f"/{MANIFEST}"))
        found |= recorded.files if recorded is not None else {}
    return found


def missing_or_cut(store: ObjectStore, run: str) -> list[str]:
    """Keys of a run's files that are gone or have another size: what can be seen without reading."""
    sizes = store.sizes(run_prefix(run))
    return [k for k, file in recorded_files(store, run).items() if sizes.get(k) != file.size]


def restore(store: ObjectStore, recorded: Recorded) -> tuple[list[str], list[str]]:
    """Put a whole copy in the place of every damaged file that has one.

    All files are read. Returns the keys that were restored, and those that have no copy.
    """
    damaged = find_damage(store, recorded.files, trust=False)
    mended, left = [], []
    for key in damaged:
        copy = find_copy(store, key, recorded.files[key])
        if copy is None:
            left.append(key)
        else:
            store.put(key, copy)
            mended.append(key)
    return mended, left


def find_copy(store: ObjectStore, key: str, file: OutputFile) -> Path | None:
    """A local file that has the bytes which were written to `key`; None if nobody has them."""
    for path in store.copies_here(key):
        if path.is_file() and file_digest(path) == file.sha256:
            return path
    for other in _elsewhere(store, file):
        if other != key and not find_damage(store, {other: file}, trust=False):
            return store.local(other)
    return None


def _elsewhere(store: ObjectStore, file: OutputFile) -> Iterator[str]:
    """Keys at which records of the store have a file of these bytes: models first, then runs."""
    for top, name in ((REGISTRY, VERSION), ("runs", MANIFEST)):
        for key in store.keys(top):
            if not key.endswith(f"/{name}"):
                continue
            try:
                recorded = read_record(store, key.removesuffix(f"/{name}"))
            except DamagedError:
                continue
            for there, other in recorded.files.items() if recorded else ():
                if (other.sha256, other.size) == (file.sha256, file.size):
                    yield there
