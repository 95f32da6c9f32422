"""What of a finished run a changed input would make again: asked before anything moves."""

from __future__ import annotations

from pelican.config.recipe import Recipe
from pelican.config.stages import is_training
from pelican.errors import DamagedError, UserInputError
from pelican.runs.layout import manifests, prefix_of
from pelican.stages.fingerprint import is_made_from, stage_identity
from pelican.stages.replace import allow, check_replaceable, describe_change
from pelican.stages.stage import StageSpec
from pelican.storage.manifests import Manifest
from pelican.storage.reading import pass_over
from pelican.storage.store import ObjectStore


def check_finished(store: ObjectStore, run: str, recipe: Recipe, redo: bool) -> None:
    """Whether a run's finished trainings may stay, or a person gave up those that may not.

    A training is made again if it, or a stage that it was made from, would be made from something
    else now. Damage and loss are no such change.

    Args:
        store: where the run lies.
        run: its name.
        recipe: of the run, as it is from now on.
        redo: whether a person wants the trainings again.

    Raises:
        UserInputError: a training would be made again, and nobody asked for it.
    """
    found = {prefix_of(manifest): manifest for manifest in manifests(store, run, pass_over)}
    if redo:
        allow(store, run, {at: m for at, m in found.items() if is_training(m.stage)})
        return
    reasons: dict[str, str] = {}  # of stages that would be made again
    for prefix, manifest in found.items():
        above = next((reasons[at] for at in reasons if _reads(manifest, at)), None)
        reason = above or _reason(store, recipe, prefix, manifest)
        if reason is None:
            continue
        reasons[prefix] = reason
        if is_training(manifest.stage):
            check_replaceable(store, prefix, manifest, reason)


def _reads(manifest: Manifest, prefix: str) -> bool:
    places = manifest.inputs.values()
    return any(place == prefix or place.startswith(f"{prefix}/") for place in places)


def _reason(store: ObjectStore, recipe: Recipe, prefix: str, manifest: Manifest) -> str | None:
    """What has changed of what a stage was made from; None if nothing, or if an input was lost."""
    spec = StageSpec.of_finished(store, prefix, manifest, recipe)
    try:
        identity = stage_identity(store, spec)
    except (UserInputError, DamagedError):  # it will be said by whoever needs the input
        return None
    return None if is_made_from(manifest, identity) else describe_change(manifest, identity.making)
