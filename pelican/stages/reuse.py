"""A finished stage of another run instead of the same work again: PELICAN_REUSE=on.

Runs that differ in one idea share what comes before it: the base's evaluation, the first rollouts.
What is taken over has the same fingerprint (the stage's part of the recipe, loop, phase, the content of
its inputs), was made by the same code and packages, and lies in the same folder's store.
"""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from pelican.storage.manifests import MANIFEST, Manifest, commit_manifest, read_manifest, versions
from pelican.storage.objects import ObjectStore

if TYPE_CHECKING:
    from pelican.stages.spec import StageSpec

CODE = "code"  # in a manifest's versions


@functools.cache
def code_digest() -> str:
    """SHA-256 of the package's sources as this process found them, 16 hex digits."""
    root = Path(__file__).parent.parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def made_by() -> dict[str, str]:
    """Versions of the packages and of this code, for a manifest."""
    return versions() | {CODE: code_digest()}


def taken_over(store: ObjectStore, spec: StageSpec, identity: str) -> Manifest | None:
    """The stage copied from a run that has it, committed; None if none has.

    The manifest keeps the donor's counts, metrics and times (so that runs compare at equal compute)
    and says where it is from in `notes.taken_from`.
    """
    if store.remote:
        return None
    root = store.local_root("runs")
    stage = spec.output.removeprefix(f"runs/{spec.run}/")
    for path in sorted(root.glob(f"*/{stage}/{MANIFEST}")):
        prefix = f"runs/{path.parent.relative_to(root).as_posix()}"
        found = read_manifest(store, prefix)
        if found is None or found.fingerprint != identity or found.versions != made_by():
            continue
        if not _copied(store, found, prefix, spec.output):
            continue
        manifest = found.model_copy(
            update={
                "run": spec.run,
                "recipe": spec.recipe.digest(),
                "inputs": spec.inputs,
                "notes": found.notes | {"taken_from": found.notes.get("taken_from", prefix)},
            }
        )
        commit_manifest(store, spec.output, manifest)
        return manifest
    return None


def _copied(store: ObjectStore, manifest: Manifest, source: str, target: str) -> bool:
    """Whether every file of the stage is there again, with the content that the manifest names."""
    for output in manifest.outputs:
        key = f"{target}/{output.path}"
        try:
            store.put(key, store.local(f"{source}/{output.path}"))
            right = store.describe(key) == (output.size, output.sha256)
        except (KeyError, FileNotFoundError):  # being deleted
            right = False
        if not right:
            store.delete(target)
            return False
    return True
