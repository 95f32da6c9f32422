"""The fingerprint of a stage: what determines its result, and so how a finished stage is recognised.

Light, because launchers ask whether a stage is done without loading what a stage works with.
"""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path
from typing import Any

from pelican.config import env
from pelican.config.stages import STAGES
from pelican.data.versions import Reader, stat_files, trust_versions
from pelican.stages.stage import StageSpec, input_digest
from pelican.storage.manifests import (
    MANIFEST,
    Manifest,
    commit_manifest,
    fingerprint,
    read_manifest,
    versions,
)
from pelican.storage.store import ObjectStore

# What determines a stage's result: a stage that finds its fingerprint is done. Of the recipe it is what
# the table of stages says; pools and checkpoints count by their content, as inputs.


def stage_fingerprint(store: ObjectStore, spec: StageSpec, read: Reader = trust_versions) -> str:
    """What determines the result of `spec`: its part of the recipe, loop, phase and inputs."""
    recipe = spec.recipe.model_dump(mode="json")
    recipe["reward"] = spec.rewards.model_dump(mode="json")
    settings = {name: _part(recipe, name) for name in STAGES[spec.stage].result}
    settings |= {"loop": spec.loop, "phase": spec.phase.value}
    if "reward" in settings and spec.recipe.reward.judge is not None:
        from pelican.rewards.judge import PROMPT_VERSION

        settings["judge_prompt"] = PROMPT_VERSION
    inputs = {name: input_digest(store, at, read) for name, at in sorted(spec.inputs.items())}
    return fingerprint(spec.stage, settings, inputs)


def _part(tree: Any, name: str) -> Any:
    """A section or field of a recipe by its dotted name."""
    for key in name.split("."):
        tree = tree[key]
    return tree


# How a stage begins: what another recipe left below its prefix is deleted.

_MARK = "work/fingerprint"  # of the recipe and inputs that lie below a stage's prefix
_SEEN = "work/inputs"  # the same by sizes and times, then that fingerprint


def finished_manifest(store: ObjectStore, spec: StageSpec) -> Manifest | None:
    """The stage's manifest if it has the same fingerprint: then nothing is left to do."""
    done = read_manifest(store, spec.output)
    return done if done is not None and done.fingerprint == stage_fingerprint(store, spec) else None


def begin(store: ObjectStore, spec: StageSpec) -> str | Manifest:
    """Rank 0 deletes what another recipe left; gives the fingerprint, or the finished manifest."""
    identity = stage_fingerprint(store, spec)
    done = read_manifest(store, spec.output)
    if done is not None and done.fingerprint == identity:
        return done
    if done is not None:
        store.delete(spec.output)  # of another recipe or other inputs
    if store.exists(spec.output) and _mark(store, spec) != identity:
        store.delete(spec.output)  # half done, of another recipe
    if env.reuse() and not store.exists(spec.output):
        taken = taken_over(store, spec, identity)
        if taken is not None:
            return taken
    store.write(
        f"{spec.output}/{_SEEN}",
        f"{stage_fingerprint(store, spec, stat_files)} {identity}".encode(),
    )
    store.write(f"{spec.output}/{_MARK}", identity.encode())
    return identity


def identity_seen(store: ObjectStore, spec: StageSpec) -> str | None:
    """The fingerprint that rank 0 found, if the inputs have the same sizes and times here as there.

    So a replica need not read its inputs. None says nothing: this machine's copies may be of another
    time.
    """
    try:
        found, _, identity = store.read(f"{spec.output}/{_SEEN}").decode().partition(" ")
    except KeyError:
        return None
    return identity if found == stage_fingerprint(store, spec, stat_files) else None


def open_or_finished(store: ObjectStore, spec: StageSpec, identity: str) -> str | Manifest | None:
    """What `begin` of rank 0 gave, as another process finds it; None if it has not begun."""
    done = read_manifest(store, spec.output)
    if done is not None:
        return done if done.fingerprint == identity else None
    return identity if _mark(store, spec) == identity else None


def _mark(store: ObjectStore, spec: StageSpec) -> str:
    try:
        return store.read(f"{spec.output}/{_MARK}").decode()
    except KeyError:
        return ""


# A finished stage of another run instead of the same work again: PELICAN_REUSE=on.
#
# Runs that differ in one idea share what comes before it: the base's evaluation, the first rollouts.
# The donor has the same fingerprint (the stage's part of the recipe, loop, phase, the content of its
# inputs), was made by the same code and packages, and lies in the same store, a folder.

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
