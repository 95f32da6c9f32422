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
from pelican.storage.verify import REGISTRY, VERSION, Recorded, find_damage, find_record

SMALL = 16 << 20  # bytes: all of a run's tables, and no checkpoint of a real model
AT_A_GLANCE = 1 << 30  # bytes that are read of all of them, the smallest files first


def find_records(store: ObjectStore, run: str) -> tuple[dict[str, OutputFile], list[str]]:
    """Every file of a run that a manifest names, by key, and the manifests that can't be read.

    What stands aside is left out.
    """
    prefix = run_prefix(run)
    files: dict[str, OutputFile] = {}
    damaged = []
    for key in store.keys(prefix):
        if not key.endswith(f"/{MANIFEST}") or key.startswith(f"{prefix}/{REPLACED}/"):
            continue
        try:
            recorded = find_record(store, key.removesuffix(f"/{MANIFEST}"))
        except DamagedError:
            damaged.append(key)
            continue
        files |= recorded.files if recorded is not None else {}
    return files, damaged


def look_over(store: ObjectStore, run: str) -> list[str]:
    """Keys of a run's files that are not what was written, as far as can be seen in seconds.

    What is gone or has another size; what is small and has other bytes; and of the rest what this
    machine knows to have other bytes, or finds out where a file that it knew looks altered.
    `pelican show --verify` reads everything.
    """
    files, damaged = find_records(store, run)
    sizes = store.sizes(run_prefix(run))
    wrong = {key for key, file in files.items() if sizes.get(key) != file.size}
    small: dict[str, OutputFile] = {}
    room = AT_A_GLANCE
    for key, file in sorted(files.items(), key=lambda pair: pair[1].size):
        room -= file.size
        if key not in wrong and file.size <= SMALL and room >= 0:
            small[key] = file
    wrong.update(find_damage(store, small, trust=False))
    known = store.known_digests(key for key in files if key not in wrong and key not in small)
    wrong |= {key for key, digest in known.items() if digest != files[key].sha256}
    return sorted(wrong.union(damaged))


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
            if store.remote:  # an object that claims to be whole would not be sent again
                store.delete(key)
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
                recorded = find_record(store, key.removesuffix(f"/{name}"))
            except DamagedError:
                continue
            for there, other in recorded.files.items() if recorded else ():
                if (other.sha256, other.size) == (file.sha256, file.size):
                    yield there
