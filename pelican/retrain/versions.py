"""Data versions: which files were delivered together. Immutable, named by their content."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from pelican import settings
from pelican.data.versions import find_pool
from pelican.digest import digest_of
from pelican.errors import UserInputError
from pelican.retrain.records import DataObject, DataVersion
from pelican.storage.manifests import file_digest, now
from pelican.storage.objects import ObjectStore, open_uri

PREFIX = "data/versions"
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,60}[a-z0-9])?")


def version_key(name: str) -> str:
    return f"{PREFIX}/{name}.json"


def make_version(
    store: ObjectStore, label: str, source: str, objects: Sequence[DataObject]
) -> DataVersion:
    """Name a set of objects `<label>-<digest>` and keep it; the same objects give the same name."""
    digest = digest_of([source, sorted([o.key, o.tag] for o in objects)])
    short = re.sub(r"[^a-z0-9]+", "-", label.lower()).strip("-")[:40].strip("-") or "data"
    version = DataVersion(
        name=f"{short}-{digest[:10]}",
        source=source,
        objects=sorted(objects, key=lambda o: o.key),
        digest=digest,
        created=now(),
    )
    key = version_key(version.name)
    store.write(key, version.model_dump_json(indent=1).encode(), if_absent=True)
    return DataVersion.model_validate_json(store.read(key))


def find_version(store: ObjectStore, where: str) -> DataVersion:
    """A data version by its name; or of the Parquet files of what `where` names.

    That is a prefix of the store, `s3://bucket/prefix`, a folder, or a pool's version (`POOL@id`).
    """
    if _NAME.fullmatch(where) and store.exists(version_key(where)):
        return DataVersion.model_validate_json(store.read(version_key(where)))
    if where.startswith("s3://"):
        return _version_of_uri(store, where)
    if not where.startswith("/") and ".." not in where and store.exists(where):
        return version_of_prefix(store, where)
    folder = Path(settings.resolve(where))
    if "@" in where and not folder.exists():
        folder = find_pool(str(folder))
    if not folder.exists():
        raise UserInputError(
            f"data {where!r} is neither a data version, nor a prefix of {store.uri}, nor a folder,"
            " an s3:// URI or POOL@version; give one of these"
        )
    label = _label(folder)
    root = folder.parent if folder.is_file() else folder.resolve()  # a pool links to its version
    paths = [folder] if folder.is_file() else sorted(root.rglob("*.parquet"))
    objects = [
        DataObject(
            key=path.relative_to(root).as_posix(), tag=file_digest(path), size=path.stat().st_size
        )
        for path in paths
    ]
    if not store.remote:
        return _not_empty(store, label, str(root), objects, where)
    # Who reads a remote store does not see this machine's folders.
    below = f"data/files/{digest_of([[o.key, o.tag] for o in objects])}"
    for path, uploaded in zip(paths, objects, strict=True):
        store.put(f"{below}/{uploaded.key}", path)
    moved = [o.model_copy(update={"key": f"{below}/{o.key}"}) for o in objects]
    return _not_empty(store, label, store.uri, moved, where)


def _label(folder: Path) -> str:
    """What a version is called after: the pool's name, if the folder is a version of one."""
    parent = folder.parent.name
    return parent.removesuffix(".versions") if parent.endswith(".versions") else folder.stem


def _version_of_uri(store: ObjectStore, uri: str) -> DataVersion:
    """The Parquet objects below an s3:// URI, wherever `store` is."""
    bucket, prefix = open_uri(uri)
    tags = {key: tag for key, tag in bucket.tags(prefix).items() if key.endswith(".parquet")}
    objects = [DataObject(key=key, tag=tag) for key, tag in sorted(tags.items())]
    label = prefix.rsplit("/", 1)[-1].removesuffix(".parquet")
    return _not_empty(store, label, bucket.uri, objects, uri)


def version_of_prefix(store: ObjectStore, prefix: str) -> DataVersion:
    """The Parquet objects below a prefix of the store, as they are now."""
    tags = {key: tag for key, tag in store.tags(prefix).items() if key.endswith(".parquet")}
    objects = [DataObject(key=key, tag=tag) for key, tag in sorted(tags.items())]
    return _not_empty(store, prefix.rstrip("/").split("/")[-1], store.uri, objects, prefix)


def _not_empty(
    store: ObjectStore, label: str, source: str, objects: list[DataObject], where: str
) -> DataVersion:
    if not objects:
        raise UserInputError(f"data {where!r} holds no *.parquet file; docs/data.md gives the form")
    return make_version(store, label, source, objects)
