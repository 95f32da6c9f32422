"""Where a stage's inputs lie, and what tells one from a changed one."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from pelican import settings
from pelican.data.digests import Reader, known
from pelican.digest import digest_of
from pelican.errors import UserInputError
from pelican.recipe import Recipe
from pelican.storage.manifests import read_manifest
from pelican.storage.objects import ObjectStore, local_path, open_uri

CORRECTIONS = "corrections"  # an input beside `pool`


def resolve_input(store: ObjectStore, where: str) -> Path:
    """A prefix of the store if it exists there, an s3:// URI, else a path of this machine."""
    if "://" in where:
        try:
            return local_path(where)
        except KeyError:
            raise UserInputError(f"there is nothing at {where}; check the recipe") from None
    if not where.startswith("/") and store.exists(where):
        return store.local(where)
    path = Path(where)
    if not path.exists():
        raise UserInputError(
            f"input {where!r} is neither in {store.uri} nor a path; check the recipe"
        )
    return path


def corrections_place(store: ObjectStore, recipe: Recipe) -> str | None:
    """Where the recipe's corrections lie: a key of the store if there is one, else a path."""
    where = recipe.data.corrections
    if not where:
        return None
    inside = "://" not in where and not where.startswith("/") and store.exists(where)
    return where if inside else settings.resolve(where)


def input_digest(store: ObjectStore, where: str, read: Reader = known) -> str:
    """Digest of a stage's output (by its manifest), or of a plain file or folder (by content).

    `<prefix>/checkpoint`, a folder that a stage committed, has the digest that a plain copy of it
    has, but is read from the stage's manifest instead of hashed again. What an s3:// URI names
    counts by the endpoint's entity tags, so that nothing is downloaded to be compared. `read` says
    what stands for the files of this machine.
    """
    if "://" in where:
        outside, key = open_uri(where)
        tags = outside.tags(key)
        if not tags:
            raise UserInputError(f"there is nothing at {where}; check the recipe")
        return digest_of([[name.removeprefix(key), tags[name]] for name in sorted(tags)])
    if not where.startswith("/"):
        manifest = read_manifest(store, where)
        if manifest is not None:
            return manifest.digest()
        for parent in [str(p) for p in PurePosixPath(where).parents][:-1]:
            manifest = read_manifest(store, parent)
            if manifest is not None:
                below = where.removeprefix(f"{parent}/") + "/"
                return digest_of(
                    [
                        [output.path.removeprefix(below), output.sha256]
                        for output in sorted(manifest.outputs, key=lambda o: o.path)
                        if output.path.startswith(below)
                    ]
                )
        if where.startswith("runs/"):
            raise UserInputError(
                f"input {where!r} is of a stage that has not finished; run it first"
            )
    found = read(resolve_input(store, where))
    return digest_of([[name, found[name]] for name in sorted(found)])
