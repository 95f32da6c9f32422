"""How a stage begins and ends: what is of another recipe goes, and the manifest comes last."""

from __future__ import annotations

from datetime import datetime

from pelican import settings
from pelican.data.digests import seen
from pelican.stages.context import StageContext
from pelican.stages.fingerprint import stage_fingerprint
from pelican.stages.reuse import made_by, taken_over
from pelican.stages.spec import StageSpec
from pelican.storage.manifests import (
    Manifest,
    commit_manifest,
    describe_outputs,
    now,
    read_manifest,
)
from pelican.storage.objects import ObjectStore

_MARK = "work/fingerprint"  # of the recipe and inputs that lie below a stage's prefix
_SEEN = "work/inputs"  # the same by sizes and times, then that fingerprint


def finished_manifest(store: ObjectStore, spec: StageSpec) -> Manifest | None:
    """The stage's manifest if it is of the same recipe and inputs: then nothing is left to do."""
    done = read_manifest(store, spec.output)
    return done if done is not None and done.fingerprint == stage_fingerprint(store, spec) else None


def begin(store: ObjectStore, spec: StageSpec) -> str | Manifest:
    """Rank 0 clears what is of another recipe; gives the fingerprint, or the finished manifest."""
    identity = stage_fingerprint(store, spec)
    done = read_manifest(store, spec.output)
    if done is not None and done.fingerprint == identity:
        return done
    if done is not None:
        store.delete(spec.output)  # of another recipe or other inputs
    if store.exists(spec.output) and _mark(store, spec) != identity:
        store.delete(spec.output)  # half done, of another recipe
    if settings.reuse() and not store.exists(spec.output):
        taken = taken_over(store, spec, identity)
        if taken is not None:
            return taken
    store.write(
        f"{spec.output}/{_SEEN}", f"{stage_fingerprint(store, spec, seen)} {identity}".encode()
    )
    store.write(f"{spec.output}/{_MARK}", identity.encode())
    return identity


def identity_seen(store: ObjectStore, spec: StageSpec) -> str | None:
    """The fingerprint that rank 0 found, if the inputs have the sizes and times here that it saw.

    So a replica need not read its inputs. None says nothing: they may be copies of another time.
    """
    try:
        found, _, identity = store.read(f"{spec.output}/{_SEEN}").decode().partition(" ")
    except KeyError:
        return None
    return identity if found == stage_fingerprint(store, spec, seen) else None


def open_or_finished(store: ObjectStore, spec: StageSpec, identity: str) -> str | Manifest | None:
    """What `begin` of rank 0 gave, seen from another process; None if it has not begun."""
    done = read_manifest(store, spec.output)
    if done is not None:
        return done if done.fingerprint == identity else None
    return identity if _mark(store, spec) == identity else None


def _mark(store: ObjectStore, spec: StageSpec) -> str:
    try:
        return store.read(f"{spec.output}/{_MARK}").decode()
    except KeyError:
        return ""


def commit(context: StageContext, identity: str, started: datetime) -> Manifest:
    """Write the manifest over what lies below the stage's prefix."""
    spec, store = context.spec, context.store
    manifest = Manifest(
        stage=spec.stage,
        run=spec.run,
        loop=spec.loop,
        phase=spec.phase,
        fingerprint=identity,
        recipe=spec.recipe.digest(),
        inputs=spec.inputs,
        outputs=describe_outputs(store, spec.output),
        counts=dict(context.counts),
        metrics=context.metrics,
        notes=context.notes,
        started=started,
        finished=now(),
        versions=made_by(),
    )
    commit_manifest(store, spec.output, manifest)
    return manifest
