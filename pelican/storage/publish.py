"""Publishing: pools and checkpoints of this machine go to the store, where pods can read them."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pelican.base.model import digest_of
from pelican.config import env
from pelican.config.recipe import Recipe
from pelican.errors import UserInputError
from pelican.storage.digests import file_digest
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
    """Upload what the recipe names by path; returns the recipe with URIs instead.

    The name in the store has the content's digest, so that what a run reads never changes, and the
    same files are uploaded once. A teacher behind an endpoint stays, because it is no path.

    Raises:
        UserInputError: there is nothing at a path.
    """
    tree = recipe.model_dump()
    for section, name in _FIELDS:
        where = tree[section][name]
        unused = name in ("teacher", "replay") and not recipe.sft.enabled
        if "://" in where or unused or (name == "teacher" and recipe.distill.endpoint):
            continue
        path = Path(env.resolve(where))
        if not path.exists():
            raise UserInputError(f"{section}.{name}: there is nothing at {path}; change the field")
        tree[section][name] = f"{store.uri}/{_upload(store, path)}"
    return Recipe.model_validate(tree)


def places(recipe: Recipe) -> str:
    """The URIs of a published recipe's pools and checkpoints, as overrides for a command."""
    tree = recipe.model_dump()
    found = {f"{section}.{name}": tree[section][name] for section, name in _FIELDS}
    return " ".join(f"{field}={where}" for field, where in found.items() if "://" in where)


def _upload(store: ObjectStore, path: Path) -> str:
    """Upload a file or folder unless the store has all of it; returns its key, which has its digest."""
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    root = path if path.is_dir() else path.parent
    digests = {p.relative_to(root).as_posix(): file_digest(p) for p in files}
    key = f"{DATA}/{path.name if path.is_dir() else path.stem}-{digest_of(sorted(digests.items()))[:12]}"
    whole = f"{key}.json"  # written last: it says that all files are there
    if not store.exists(whole):
        print(f"uploading {path} to {store.uri}/{key}", file=sys.stderr, flush=True)
        with ThreadPoolExecutor(4) as threads:
            list(threads.map(lambda name: store.put(f"{key}/{name}", root / name), digests))
        store.write(whole, str(len(digests)).encode())
    return key
