"""A finished stage whose place is needed: it stands aside until another is finished there.

    runs/<run>/replaced/<rest of its prefix>    one older generation, at most
    runs/<run>/redo.json                        which finished trainings a person gave up

It is a result that may have cost days: it goes once the new manifest is there, and comes back if it is
wanted again. No rule of a bucket deletes there, and `pelican gc` leaves it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pelican.base.parse import parse_json
from pelican.config.stages import is_training
from pelican.errors import DamagedError, UserInputError
from pelican.storage.manifests import Making, Manifest, read_manifest
from pelican.storage.store import WORK, ObjectStore
from pelican.storage.verify import find_damage

REPLACED = "replaced"
REDO = "redo.json"
_NAMED = 3  # changes that a sentence names


def aside_of(prefix: str) -> str:
    """Where what lies at `runs/<run>/<rest>` stands aside."""
    runs, run, rest = prefix.split("/", 2)
    return f"{runs}/{run}/{REPLACED}/{rest}"


def set_aside(store: ObjectStore, prefix: str) -> None:
    """Move what lies at `prefix` aside, without its `work/`, in place of an older generation."""
    if store.exists(f"{prefix}/{WORK}".rstrip("/")):
        store.delete(f"{prefix}/{WORK}".rstrip("/"))
    if store.exists(prefix):
        store.move(prefix, aside_of(prefix))


def bring_back(
    store: ObjectStore, prefix: str, wanted: Callable[[Manifest], bool]
) -> Manifest | None:
    """What stands aside for `prefix`, in its place again, if it is `wanted` and whole."""
    aside = aside_of(prefix)
    try:
        found = read_manifest(store, aside)
    except DamagedError:
        return None
    if found is None or not wanted(found):
        return None
    files = {f"{aside}/{output.path}": output for output in found.outputs}
    if find_damage(store, files, trust=False):
        return None
    store.move(aside, prefix)
    return found


def drop_aside(store: ObjectStore, prefix: str) -> None:
    """Delete the older generation: the stage at `prefix` is finished."""
    if store.exists(aside_of(prefix)):
        store.delete(aside_of(prefix))


# What a person gives up: `pelican submit --redo`, the parameter `redo` of a pipeline.


def check_replaceable(store: ObjectStore, prefix: str, done: Manifest, change: str) -> None:
    """Whether a finished stage may be made again from something else.

    Args:
        store: where it lies.
        prefix: the stage's.
        done: its manifest.
        change: what is not any more as it was, as `describe_change` says it.

    Raises:
        UserInputError: it is a training, and nobody asked to redo it.
    """
    if not is_training(done.stage) or allowed(store, done.run).get(prefix) == done.fingerprint:
        return
    raise UserInputError(
        f"{prefix} is finished, but {change} since; undo that, choose another"
        " run name, or give `--redo` (of a pipeline: the parameter `redo`) to train it again"
    )


def describe_change(done: Manifest, now: Making) -> str:
    """What differs between what a finished stage was made from and what it would be made from now."""
    if done.making is None:
        return "its recipe or an input has changed"
    before, after = dict(_leaves(done.making.settings)), dict(_leaves(now.settings))
    said = [
        f"{name} was {before.get(name)!r} and is {after.get(name)!r}"
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    ]
    old, new = done.making.inputs, now.inputs
    said += [
        f"its input {name} has changed"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]
    more = f" (and {len(said) - _NAMED} more)" if len(said) > _NAMED else ""
    return ", ".join(said[:_NAMED]) + more


def _leaves(tree: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Values of a tree of mappings by their dotted names."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value


def allowed(store: ObjectStore, run: str) -> dict[str, str]:
    """The finished trainings that may be made again: prefix -> fingerprint of what is given up."""
    try:
        found = parse_json(store.read(f"runs/{run}/{REDO}"))
    except (KeyError, ValueError, DamagedError):
        return {}
    return found if isinstance(found, dict) else {}


def allow(store: ObjectStore, run: str, trainings: Mapping[str, Manifest]) -> None:
    """Let these finished trainings, by prefix, be made again; each once."""
    given_up = {prefix: manifest.fingerprint for prefix, manifest in trainings.items()}
    store.write(f"runs/{run}/{REDO}", json.dumps(given_up, indent=1).encode())
