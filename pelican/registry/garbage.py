"""`pelican gc`: what of a store nobody refers to. What a manifest names is never touched."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

from pelican.base.parse import JSONError, parse_json
from pelican.errors import DamagedError
from pelican.registry.models import ModelVersion
from pelican.runs.layout import RECIPE, RUN, run_prefix
from pelican.storage.manifests import COPY, read_manifest
from pelican.storage.reading import OnDamage, damaged, read_record
from pelican.storage.store import MANIFEST, WORK, ObjectStore
from pelican.storage.verify import REGISTRY, VERSION

_STAGE = re.compile(r"(runs/[^/]+/loop-\d+/[a-z-]+)/(.+)")
_REFERENCE = re.compile(r"\bruns/[\w./-]+")
_CHECKPOINT = "/checkpoint/"
_NO_REFERENCES = ("cache/", "data/", "judge/", "trigger/")  # many, and they name no run's files
Found = tuple[str, int, str]


def collect(store: ObjectStore, older_s: float, *, dry_run: bool = False) -> Iterator[Found]:
    """Delete, and yield (key, bytes, why). Nothing that is younger than `older_s` is touched.

    Of a finished stage: its `work/`, and files that its manifest does not name. Of a run without
    recipe: all, unless a registered model comes from it. Of `cache/`: all. Half a file that a
    killed writer left under a temporary name. Nothing else: data, registry, triggers and a judge's
    replies stay, and what a model's lineage or a recipe names.

    Raises:
        DamagedError: a record can't be read that may refer to what seems unneeded; nothing is deleted.
    """
    sizes, ages = store.sizes(""), store.ages("")
    now = time.time()
    old = {key for key in sizes if now - ages[key] > older_s}
    unread: list[DamagedError] = []
    unneeded = list(_find_unneeded(store, sorted(sizes), unread.append))
    if unread:
        more = f" (and {len(unread) - 1} more)" if len(unread) > 1 else ""
        raise DamagedError(f"nothing is deleted while a record can't be read: {unread[0]}{more}")
    for key, why in unneeded:
        if key in old:
            if not dry_run:
                store.delete(key)
            yield key, sizes[key], why
    for key, (size, written) in sorted(store.abandoned().items()):
        if now - written > older_s:
            if not dry_run:
                store.delete(key)
            yield key, size, "its writer was killed"


def _find_unneeded(
    store: ObjectStore, keys: list[str], on_damage: OnDamage
) -> Iterator[tuple[str, str]]:
    known = set(keys)
    references = _references(store, keys, on_damage)
    registered = _registered_runs(store, keys, on_damage)
    files_of_stage = {
        stage: _outputs(store, stage, on_damage)
        for key in keys
        if (stage := key.removesuffix(f"/{MANIFEST}")) != key
    }
    for key in keys:
        top = key.partition("/")[0]
        if top == "cache":
            yield key, "can be computed again"
        if top != "runs" or _is_below(key, references):
            continue
        run = "/".join(key.split("/")[:2])
        if not {f"{run}/{RECIPE}", f"{run}/{RUN}"} & known and run not in registered:
            yield key, "its run has no recipe"
            continue
        match = _STAGE.fullmatch(key)
        if match is None:
            continue
        stage, name = match.groups()
        outputs = files_of_stage.get(stage)
        if outputs is None or name in (MANIFEST, COPY) or name in outputs:
            continue
        yield key, "of a stage that is done" if name.startswith(WORK) else "no manifest names it"


def _outputs(store: ObjectStore, stage: str, on_damage: OnDamage) -> set[str] | None:
    try:
        manifest = read_manifest(store, stage)
    except DamagedError as error:
        on_damage(error)
        return None
    return None if manifest is None else {output.path for output in manifest.outputs}


def _references(store: ObjectStore, keys: list[str], on_damage: OnDamage) -> set[str]:
    """Keys and prefixes of runs/ that a recipe, the registry or another record names."""
    found: set[str] = set()
    for key in filter(_may_refer, keys):
        try:
            data = store.read(key)
            if _CHECKPOINT not in key:  # whose files are what others made of them
                parse_json(data)
        except JSONError as error:
            on_damage(damaged(store, key, error))
        except DamagedError as error:
            on_damage(error)
        except KeyError:
            continue
        else:
            text = data.decode("utf-8", "replace")
            found |= {name.rstrip("/") for name in _REFERENCE.findall(text)}
    return found


def _is_below(key: str, prefixes: set[str]) -> bool:
    parts = key.split("/")
    return any("/".join(parts[:n]) in prefixes for n in range(2, len(parts) + 1))


def _registered_runs(store: ObjectStore, keys: list[str], on_damage: OnDamage) -> set[str]:
    """Prefixes of the runs that registered models come from."""
    found = set()
    for key in keys:
        if key.startswith(f"{REGISTRY}/") and key.endswith(f"/{VERSION}"):
            version = read_record(store, key, ModelVersion, on_damage)
            if version is not None and version.lineage.run is not None:
                found.add(run_prefix(version.lineage.run))
    return found


def _may_refer(key: str) -> bool:
    """Recipes of runs; and records that lie beside runs, such as registered models'."""
    if key.startswith("runs/"):
        return key.endswith((f"/{RECIPE}", "/submitted.json"))
    return key.endswith(".json") and not key.startswith(_NO_REFERENCES)
