"""`pelican gc`: what of a store nobody refers to. What a manifest names is never touched."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

from pelican.runs import RECIPE, RUN
from pelican.storage.manifests import MANIFEST, read_manifest
from pelican.storage.objects import WORK, ObjectStore
from pelican.storage.publish import DATA

_STAGE = re.compile(r"(runs/[^/]+/loop-\d+/[a-z-]+)/(.+)")
Found = tuple[str, int, str]


def collect(store: ObjectStore, older_s: float, *, dry_run: bool = False) -> Iterator[Found]:
    """Delete, and yield (key, bytes, why). Nothing that is younger than `older_s` is touched.

    Of a finished stage: its `work/`, and files that its manifest does not name. Of a run without
    recipe: all. Of `data/`: what no run's recipe and no promoted model refers to. Of `cache/`: all.
    """
    sizes, ages = store.sizes(""), store.ages("")
    now = time.time()
    old = {key for key in sizes if now - ages[key] > older_s}
    for key, why in _unneeded(store, sorted(sizes)):
        if key in old:
            if not dry_run:
                store.delete(key)
            yield key, sizes[key], why


def _unneeded(store: ObjectStore, keys: list[str]) -> Iterator[tuple[str, str]]:
    known = set(keys)
    named: dict[str, set[str] | None] = {}
    references = _references(store, keys)
    for key in keys:
        top, _, rest = key.partition("/")
        if top == "cache":
            yield key, "can be computed again"
        elif top == DATA:
            name = rest.split("/")[0].removesuffix(".json")
            if f"{DATA}/{name}" not in references:
                yield key, "no run and no promoted model refers to it"
        elif top == "runs":
            run = "/".join(key.split("/")[:2])
            if not {f"{run}/{RECIPE}", f"{run}/{RUN}"} & known:
                yield key, "its run has no recipe"
                continue
            match = _STAGE.fullmatch(key)
            if match is None:
                continue
            stage, name = match.groups()
            if stage not in named:
                named[stage] = _outputs(store, stage) if f"{stage}/{MANIFEST}" in known else None
            outputs = named[stage]
            if outputs is None or name == MANIFEST or name in outputs:
                continue
            why = "of a stage that is done" if name.startswith(WORK) else "no manifest names it"
            if key not in references:
                yield key, why


def _outputs(store: ObjectStore, stage: str) -> set[str] | None:
    manifest = read_manifest(store, stage)
    return None if manifest is None else {output.path for output in manifest.outputs}


def _references(store: ObjectStore, keys: list[str]) -> set[str]:
    """Keys, and folders of `data/`, that a recipe or anything outside of runs/ names."""
    texts = [store.read(key).decode("utf-8", "replace") for key in keys if _may_refer(key)]
    found: set[str] = set()
    for text in texts:
        found |= set(re.findall(rf"\b{DATA}/[\w.-]+", text))
        found |= set(re.findall(r"\bruns/[\w./-]+", text))
    return found


def _may_refer(key: str) -> bool:
    """Recipes of runs; and what lies beside runs and data, such as promoted models' records."""
    if key.startswith("runs/"):
        return key.endswith((f"/{RECIPE}", "/submitted.json"))
    return key.endswith(".json") and not key.startswith((f"{DATA}/", "cache/"))
