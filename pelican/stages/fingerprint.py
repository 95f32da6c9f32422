"""The fingerprint of a stage: what determines its result, and so how a finished stage is recognised.

Light, because launchers ask whether a stage is done without loading what a stage works with.
"""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from pelican.config import env
from pelican.config.stages import STAGES
from pelican.data.versions import Reader, noted_files, stat_files
from pelican.errors import DamagedError
from pelican.stages.replace import (
    bring_back,
    check_replaceable,
    describe_change,
    drop_aside,
    set_aside,
)
from pelican.stages.stage import StageSpec, identify_input
from pelican.storage.manifests import (
    Making,
    Manifest,
    commit_manifest,
    fingerprint,
    read_manifest,
    versions,
)
from pelican.storage.store import MANIFEST, ObjectStore

# What determines a stage's result: a stage that finds its fingerprint is done. Of the recipe it is what
# the table of stages says; pools and checkpoints count by their content, as inputs.


class StageIdentity(NamedTuple):
    """What determines a stage's result: with the bytes of its inputs, and by where they come from."""

    fingerprint: str
    making: Making


def stage_fingerprint(store: ObjectStore, spec: StageSpec, read: Reader = noted_files) -> str:
    """What determines the result of `spec`: its part of the recipe, loop, phase and inputs."""
    return stage_identity(store, spec, read).fingerprint


def stage_identity(
    store: ObjectStore, spec: StageSpec, read: Reader = noted_files
) -> StageIdentity:
    """What determines the result of `spec`. Raises UserInputError if an input is not there."""
    recipe = spec.recipe.model_dump(mode="json")
    recipe["reward"] = spec.rewards.model_dump(mode="json")
    settings = {name: _part(recipe, name) for name in STAGES[spec.stage].results(spec.recipe)}
    settings |= {"loop": spec.loop, "phase": spec.phase.value}
    if "reward" in settings and spec.recipe.reward.judge is not None:
        from pelican.rewards.judge import PROMPT_VERSION

        settings["judge_prompt"] = PROMPT_VERSION
    inputs = {n: identify_input(store, at, read) for n, at in sorted(spec.inputs.items())}
    digests = {name: found.digest for name, found in inputs.items()}
    origins = {name: found.origin for name, found in inputs.items()}
    return StageIdentity(
        fingerprint(spec.stage, settings, digests), Making(settings=settings, inputs=origins)
    )


def _part(tree: Any, name: str) -> Any:
    """A section or field of a recipe by its dotted name."""
    for key in name.split("."):
        tree = tree[key]
    return tree


# How a stage begins: a finished one stays, or stands aside until there is another in its place.

_MARK = "work/fingerprint"  # of the recipe and inputs that lie below a stage's prefix
_SEEN = "work/inputs"  # the same by sizes and times, then that fingerprint
_MAKING = "work/making.json"  # what a manifest will say of it


def finished_manifest(store: ObjectStore, spec: StageSpec) -> Manifest | None:
    """The stage's manifest if it was made from what `spec` says: then nothing is left to do."""
    try:
        done = read_manifest(store, spec.output)
    except DamagedError:
        return None
    if done is None:
        return None
    return done if is_made_from(done, stage_identity(store, spec)) else None


def is_made_from(manifest: Manifest, identity: StageIdentity) -> bool:
    """Whether a finished stage has the result that `identity` stands for.

    Its inputs had the same bytes, or came from the same: those that were made again, after damage
    or a loss, may have others.
    """
    return manifest.fingerprint == identity.fingerprint or manifest.making == identity.making


def begin(store: ObjectStore, spec: StageSpec) -> str | Manifest:
    """Rank 0 makes room; gives the fingerprint, or the finished manifest.

    What another recipe or other inputs finished there is set aside until this stage is finished.
    What was half done from them is deleted.

    Raises:
        UserInputError: an input is not there; or a finished training would be replaced, because
            a person changed what it was made from, and nobody asked for it.
    """
    identity = stage_identity(store, spec)  # inputs first: nothing moves if one is missing
    try:
        done = read_manifest(store, spec.output)
    except DamagedError:  # nobody can say what it is: the stage is made again
        done = None
        set_aside(store, spec.output)
    if done is not None:
        if is_made_from(done, identity):
            return done
        change = describe_change(done, identity.making)
        check_replaceable(store, spec.output, done, change)
        set_aside(store, spec.output)
    if store.exists(spec.output) and _mark(store, spec) != identity.fingerprint:
        store.delete(spec.output)  # half done, of another recipe
    if not store.exists(spec.output):
        there = bring_back(store, spec.output, lambda found: is_made_from(found, identity))
        if there is None and env.reuse():
            there = taken_over(store, spec, identity)
        if there is not None:
            drop_aside(store, spec.output)
            return there
    seen = stage_fingerprint(store, spec, stat_files)
    store.write(f"{spec.output}/{_MAKING}", identity.making.model_dump_json().encode())
    store.write(f"{spec.output}/{_SEEN}", f"{seen} {identity.fingerprint}".encode())
    store.write(f"{spec.output}/{_MARK}", identity.fingerprint.encode())
    return identity.fingerprint


def making_at_begin(store: ObjectStore, spec: StageSpec) -> Making | None:
    """What `begin` found; None if its note is gone: then the manifest's fingerprint alone counts."""
    try:
        return Making.model_validate_json(store.read(f"{spec.output}/{_MAKING}"))
    except (KeyError, ValidationError, DamagedError):
        return None


def identity_seen(store: ObjectStore, spec: StageSpec) -> str | None:
    """The fingerprint that rank 0 found, if the inputs have the same sizes and times here as there.

    So a replica need not read its inputs. None says nothing: this machine's copies may be of another
    time.
    """
    try:
        seen = store.read(f"{spec.output}/{_SEEN}").decode("utf-8", "replace")
    except (KeyError, DamagedError):
        return None
    found, _, identity = seen.partition(" ")
    return identity if found == stage_fingerprint(store, spec, stat_files) else None


def open_or_finished(store: ObjectStore, spec: StageSpec, identity: str) -> str | Manifest | None:
    """What `begin` of rank 0 gave, as another process finds it; None if it has not begun."""
    done = read_manifest(store, spec.output)
    if done is not None:
        same = done.fingerprint == identity or is_made_from(done, stage_identity(store, spec))
        return done if same else None
    return identity if _mark(store, spec) == identity else None


def _mark(store: ObjectStore, spec: StageSpec) -> str:
    try:
        return store.read(f"{spec.output}/{_MARK}").decode("utf-8", "replace")
    except (KeyError, DamagedError):
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


def taken_over(store: ObjectStore, spec: StageSpec, identity: StageIdentity) -> Manifest | None:
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
        try:
            found = read_manifest(store, prefix)
        except DamagedError:
            continue
        same = found is not None and found.fingerprint == identity.fingerprint
        if found is None or not same or found.versions != made_by():
            continue
        if not _copied(store, found, prefix, spec.output):
            continue
        manifest = found.model_copy(
            update={
                "run": spec.run,
                "recipe": spec.recipe.digest(),
                "inputs": spec.inputs,
                "making": identity.making,
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
