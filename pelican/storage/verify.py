"""What the bytes of a place in the store must be: those that its record names, by their digests.

A finished stage has `manifest.json`, a registered model `version.json`. Whoever reads below them calls
`check_local` first, because a disk may give other bytes than it took.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pydantic import BaseModel, ValidationError

from pelican.errors import DamagedError
from pelican.storage.digests import file_digests
from pelican.storage.manifests import Manifest, OutputFile, read_manifest
from pelican.storage.store import ObjectStore

REGISTRY = "registry"
VERSION = "version.json"  # of a registered model; its files lie in `checkpoint/`


class _Version(BaseModel):
    """What is read here of a registered model's record."""

    files: list[OutputFile]


@dataclass(frozen=True)
class Recorded:
    """The files at or below a place, by key, as the record at `prefix` names them.

    `manifest` is that record if a stage wrote the files; None for a registered model's.
    """

    prefix: str
    files: Mapping[str, OutputFile]
    manifest: Manifest | None


def find_record(store: ObjectStore, where: str) -> Recorded | None:
    """What the record above `where` says of the files at or below it; None if no record is there.

    Raises:
        DamagedError: the record itself can't be read.
    """
    for prefix in (where, *(str(p) for p in list(PurePosixPath(where).parents)[:-1])):
        manifest = read_manifest(store, prefix)
        files = manifest.outputs if manifest is not None else _registered(store, prefix)
        if files is not None:
            by_key = {f"{prefix}/{file.path}": file for file in files}
            below = {k: f for k, f in by_key.items() if k == where or k.startswith(f"{where}/")}
            return Recorded(prefix, below, manifest)
    return None


def _registered(store: ObjectStore, prefix: str) -> list[OutputFile] | None:
    """The files of a registered model's version; None if `prefix` is none."""
    if not prefix.startswith(f"{REGISTRY}/"):
        return None
    try:
        data = store.read(f"{prefix}/{VERSION}")
    except KeyError:
        return None
    try:
        files = _Version.model_validate_json(data).files
    except ValidationError:
        raise DamagedError(
            f"{store.uri}/{prefix}/{VERSION} is damaged; restore it from a backup of the store"
        ) from None
    return [file.model_copy(update={"path": f"checkpoint/{file.path}"}) for file in files]


def find_damage(
    store: ObjectStore, files: Mapping[str, OutputFile], *, trust: bool = True
) -> list[str]:
    """Keys of those files that are missing or have other bytes.

    Args:
        store: where they lie.
        files: by key.
        trust: whether a digest that this machine noted counts; False reads every byte.
    """
    found = store.digests(files, trust=trust)
    return [key for key, file in files.items() if found[key] != file.sha256]


def check_local(store: ObjectStore, where: str, path: Path, *, trust: bool = True) -> None:
    """Check the local copy of what lies at or below `where` against its record.

    Args:
        store: where the record lies.
        where: a key, or the prefix of a folder; what has no record passes.
        path: what `store.local(where)` gave.
        trust: whether a digest that this machine noted counts; False reads every byte.

    Raises:
        DamagedError: a file is missing or has other bytes, or the record can't be read.
    """
    recorded = find_record(store, where)
    if recorded is None:
        return
    paths = {k: path / k[len(where) + 1 :] if k != where else path for k in recorded.files}
    there = [file for file in paths.values() if file.is_file()]
    digests = file_digests(there, trust=trust)
    for key, file in recorded.files.items():
        if digests.get(paths[key]) != file.sha256:
            raise DamagedError(
                f"{store.uri}/{key} is damaged or missing: its bytes are not those that the record"
                f" of {recorded.prefix} names",
                recorded.prefix,
            )
