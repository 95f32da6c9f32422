"""Pools and checkpoints of this machine, brought to the store so that pods can read them."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pelican.base.model import digest_of
from pelican.config import env
from pelican.config.recipe import Recipe
from pelican.errors import UserInputError
from pelican.storage.manifests import file_digest
from pelican.storage.store import ObjectStore

DATA = "data"
_FIELDS = (
    ("models", "policy"),
    ("models", "teacher"),
    ("data", "train"),
    ("data", "replay"),
    ("data", "evaluation"),
    ("data", "general"),
)


def publish(store: ObjectStore, recipe: Recipe) -> Recipe:
    """`recipe` with URIs for paths: each lies once in the store, under a name with its digest.

    So what a run reads never changes under it, and the same files are brought only once. A teacher
    behind an endpoint is a name, no path, and stays. Raises UserInputError for a path that is none.
    """
    tree = recipe.model_dump()
    for section, name in _FIELDS:
        where = tree[section][name]
        needless = name in ("teacher", "replay") and not recipe.sft.enabled
        if "://" in where or needless or (name == "teacher" and recipe.distill.endpoint):
            continue
        path = Path(env.resolve(where))
        if not path.exists():
            raise UserInputError(f"{section}.{name}: there is nothing at {path}; change the field")
        tree[section][name] = f"{store.uri}/{_bring(store, path)}"
    return Recipe.model_validate(tree)


def places(recipe: Recipe) -> str:
    """Where a published recipe's pools and checkpoints lie, as overrides."""
    tree = recipe.model_dump()
    found = {f"{section}.{name}": tree[section][name] for section, name in _FIELDS}
    return " ".join(f"{field}={where}" for field, where in found.items() if "://" in where)


def _bring(store: ObjectStore, path: Path) -> str:
    """Upload what is missing of a file or folder; returns its key. Its name has its digest."""
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    root = path if path.is_dir() else path.parent
    digests = {p.relative_to(root).as_posix(): file_digest(p) for p in files}
    key = f"{DATA}/{path.name if path.is_dir() else path.stem}-{digest_of(sorted(digests.items()))[:12]}"
    whole = f"{key}.json"  # last, so that a half upload is not taken for all of it
    if not store.exists(whole):
        print(f"uploading {path} to {store.uri}/{key}", file=sys.stderr, flush=True)
        with ThreadPoolExecutor(4) as threads:
            list(threads.map(lambda name: store.put(f"{key}/{name}", root / name), digests))
        store.write(whole, str(len(digests)).encode())
    return key
