"""What the steps of a retraining hand on, and the data versions that it starts from."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from pelican.base.model import Frozen, digest_of
from pelican.config import env
from pelican.data.versions import find_pool
from pelican.errors import UserInputError
from pelican.runs.layout import run_prefix
from pelican.storage import open_uri
from pelican.storage.digests import file_digest
from pelican.storage.manifests import now
from pelican.storage.reading import read_record
from pelican.storage.store import ObjectStore

# Records that the steps of a retraining hand on, and the verdict at its end.

VERDICT = "verdict.json"
Outcome = Literal["promoted", "refused", "no weakness", "overtaken"]


class DataObject(Frozen):
    """One file of a data version. `tag`: names the version of the object, as its store does."""

    key: str
    tag: str = ""
    size: int | None = None


class DataVersion(Frozen):
    """`data/versions/<name>.json`: files that were delivered together, named once for all."""

    name: str = Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,60}[a-z0-9])?$")
    source: str = Field(description="store or folder that the keys are of")
    objects: list[DataObject] = Field(min_length=1)
    digest: str
    created: datetime


class FileFault(Frozen):
    """A delivered file that can't be read at all."""

    key: str
    reason: str


class Intake(Frozen):
    """`facts.json`: what became of the delivered files."""

    version: str
    digest: str
    files: dict[str, str] = Field(description="key -> sha256")
    faults: list[FileFault]
    rows: int
    samples: int
    held_samples: int
    quarantined: dict[str, int]
    quarantine: list[dict[str, Any]]
    families: dict[str, int]

    @property
    def unusable(self) -> int:
        """Rows left out; a file that can't be read counts as one."""
        return sum(self.quarantined.values()) + len(self.faults)


class Weakness(Frozen):
    """`weakness.json`: what the parent can't do of the new data yet."""

    go_on: bool
    reason: str
    diagnosed: int
    mastered: int
    weak: int
    share: float
    mean_success_rate: float
    weak_by_family: dict[str, int]
    new_rows: int = 0
    replayed_rows: int = 0
    held_rows: int = 0
    left_out: dict[str, int] = Field(default_factory=dict)  # rows that can't be read, by code


class Verdict(Frozen):
    """`verdict.json`: how a retraining ended."""

    outcome: Outcome
    run: str
    data: str
    parent: str
    version: str | None = None
    reasons: list[str]
    numbers: dict[str, float] = Field(default_factory=dict)
    at: datetime


def verdict_key(run: str) -> str:
    return f"{run_prefix(run)}/{VERDICT}"


def read_verdict(store: ObjectStore, run: str) -> Verdict | None:
    """How a run ended, or None. Raises DamagedError if the record can't be read."""
    return read_record(store, verdict_key(run), Verdict)


def write_verdict(store: ObjectStore, verdict: Verdict) -> Verdict:
    """Keep how a run ended; a run ends once."""
    data = verdict.model_dump_json(indent=1).encode()
    store.write(verdict_key(verdict.run), data, if_absent=True)
    kept = read_verdict(store, verdict.run)
    assert kept is not None
    return kept


# Data versions: which files were delivered together. Immutable, named by their content.

PREFIX = "data/versions"
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,60}[a-z0-9])?")


def version_key(name: str) -> str:
    return f"{PREFIX}/{name}.json"


def make_version(
    store: ObjectStore, label: str, source: str, objects: Sequence[DataObject]
) -> DataVersion:
    """Name a set of objects `<label>-<digest>` and keep it; the same objects give the same name."""
    digest = _digest(source, objects)
    short = re.sub(r"[^a-z0-9]+", "-", label.lower()).strip("-")[:40].strip("-") or "data"
    version = DataVersion(
        name=f"{short}-{digest[:10]}",
        source=source,
        objects=sorted(objects, key=lambda o: o.key),
        digest=digest,
        created=now(),
    )
    key, data = version_key(version.name), version.model_dump_json(indent=1).encode()
    if store.write(key, data, if_absent=True):
        return version
    kept, tag = store.read_tagged(key, checked=False)
    found = _parse_version(kept, version.name)
    if found is None:
        store.write(key, data, if_tag=tag)
    return found or version


def _parse_version(data: bytes, name: str) -> DataVersion | None:
    """A version's record, or None if it is not that of the content that gave it its name."""
    try:
        found = DataVersion.model_validate_json(data)
        digest = _digest(found.source, found.objects)
    except ValueError:
        return None
    whole = found.name == name and found.digest == digest and name.endswith(f"-{digest[:10]}")
    return found if whole else None


def _digest(source: str, objects: Sequence[DataObject]) -> str:
    return digest_of([source, sorted([o.key, o.tag] for o in objects)])


def find_version(store: ObjectStore, where: str) -> DataVersion:
    """A data version by its name; or of the Parquet files of what `where` names.

    That is a prefix of the store, `s3://bucket/prefix`, a folder, or a pool's version (`POOL@id`).
    """
    if _NAME.fullmatch(where) and store.exists(version_key(where)):
        found = _parse_version(store.read(version_key(where)), where)
        if found is None:
            raise UserInputError(
                f"{store.uri}/{version_key(where)} is damaged; delete it and name the data itself"
            )
        return found
    if where.startswith("s3://"):
        return _version_of_uri(store, where)
    if not where.startswith("/") and ".." not in where and store.exists(where):
        return version_of_prefix(store, where)
    folder = Path(env.resolve(where))
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
    """The name that a version gets its own from: the pool's, if the folder is a version of one."""
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
