"""Versions of a pool, and digests of what lies in a folder or prefix."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pelican.base.files import lock_file, resolve_below
from pelican.base.model import Frozen, digest_of
from pelican.base.parse import parse_json
from pelican.errors import UserInputError
from pelican.storage.digests import file_digest, file_digests

# What identifies an input folder: the digests of its files, or, where that is enough, sizes and times.

# Gives a digest, or size and time, for each file below a path.
Reader = Callable[[Path], dict[str, object]]


def files_below(path: Path) -> list[Path]:
    """The file itself, or all files of a folder."""
    return [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]


def hash_files(path: Path) -> dict[str, object]:
    """SHA-256 of every file, all of them read."""
    return {p.relative_to(path).as_posix(): file_digest(p) for p in files_below(path)}


def noted_files(path: Path) -> dict[str, object]:
    """As `hash_files`, but nothing is read that is known.

    Shards of an imported version count by what `version.json` says of them; whoever reads them calls
    `check_version`. Other files are read once on each machine, as long as they look the same.
    """
    files = {p.relative_to(path).as_posix(): p for p in files_below(path)}
    version = read_version(path) if path.is_dir() else None
    found: dict[str, object] = {s.name: s.sha256 for s in version.shards} if version else {}
    rest = {name: file for name, file in files.items() if name not in found}
    digests = file_digests(rest.values())
    return found | {name: digests[file] for name, file in rest.items()}


def known_files(path: Path) -> dict[str, object]:
    """As `hash_files`; a file that this machine has read and that looks the same is not read again."""
    files = {p.relative_to(path).as_posix(): p for p in files_below(path)}
    digests = file_digests(files.values())
    return {name: digests[file] for name, file in files.items()}


def stat_files(path: Path) -> dict[str, object]:
    """Size and time of every file, in nanoseconds: nothing is read."""
    return {
        p.relative_to(path).as_posix(): [p.stat().st_size, p.stat().st_mtime_ns]
        for p in files_below(path)
    }


# Versions of an imported pool: folders that never change, named by their content.
#
# `POOL` is a link to `POOL.versions/<id>`; the id is the digest of what the folder holds. A run that
# reads `POOL` or one version's folder finds `version.json` there and names it.

VERSION = "version.json"
QUARANTINE = "quarantine.jsonl"
LABELS = "labels.csv"
CARD = "README.md"


class Shard(Frozen):
    """One Parquet file of a version."""

    name: str
    rows: int
    bytes: int
    sha256: str


class Imported(Frozen):
    """One source that a version was read from. `quarantined`: rows by reason's code."""

    path: str
    reader: str
    fingerprint: str
    rows: int
    quarantined: dict[str, int]


class Version(Frozen):
    """What `version.json` says. `counts`: column -> value -> rows."""

    id: str
    parent: str | None = None
    made: str = ""
    sources: tuple[Imported, ...]
    settings: dict[str, Any]
    shards: tuple[Shard, ...]
    rows: int
    quarantined: int
    counts: dict[str, dict[str, int]]
    notes: tuple[str, ...] = ()


def versions_folder(pool: Path) -> Path:
    return pool.with_name(f"{pool.name}.versions")


def find_pool(where: str) -> Path:
    """The folder of a pool, or of one of its versions as `POOL@id`. Raises UserInputError."""
    name, at, wanted = where.rpartition("@")
    if not at or Path(where).exists():
        path = Path(where)
        if not path.exists():
            raise UserInputError(f"there is no pool at {where}; `pelican data import` makes one")
        return path
    folder = versions_folder(Path(name))
    there = list_versions(Path(name))
    found = [version for version in there if version.startswith(wanted)]
    if len(found) != 1:
        known = ", ".join(there) or "none"
        raise UserInputError(
            f"pool {name} has {len(found)} versions that begin with {wanted!r}; there are {known}"
        )
    return folder / found[0]


def list_versions(pool: Path) -> list[str]:
    """Ids, the oldest first."""
    folder = versions_folder(pool)
    found = [p for p in folder.glob(f"*/{VERSION}") if not p.parent.name.startswith(".")]
    return [p.parent.name for p in sorted(found, key=lambda p: p.stat().st_mtime_ns)]


def read_version(pool: Path) -> Version | None:
    """The version in a pool's folder; None for a pool that no import made."""
    path = pool / VERSION
    if not path.is_file():
        return None
    try:
        return Version.model_validate_json(path.read_bytes())
    except (ValidationError, OSError) as error:
        raise UserInputError(f"{path} can't be read ({str(error).splitlines()[0]})") from None


def version_name(pool: Path) -> str | None:
    """The id of a pool's version; None for a pool that was not imported."""
    found = read_version(pool) if pool.is_dir() else None
    return found.id if found else None


def changed_since_import(pool: Path, read: Reader = hash_files) -> list[str]:
    """What of a version is not as it was imported, in words; nothing for a pool that no import made.

    Args:
        pool: its folder, or a file.
        read: gives the files' digests; `known_files` reads those alone that seem touched.

    Raises:
        UserInputError: a shard's name leads out of the folder.
    """
    version = read_version(pool) if pool.is_dir() else None
    if version is None:
        return []
    for shard in version.shards:
        resolve_below(pool, shard.name)
    found = {name: digest for name, digest in read(pool).items() if name.endswith(".parquet")}
    said = {shard.name: shard.sha256 for shard in version.shards}
    gone = [f"{name} is gone" for name in said if name not in found]
    changed = [
        f"{n} was changed after the import" for n in said if found.get(n, said[n]) != said[n]
    ]
    added = [f"{name} was added after the import" for name in sorted(found) if name not in said]
    return [*gone, *changed, *added]


def check_version(pool: Path) -> None:
    """Whether a folder that an import made still holds what was imported; others pass.

    Raises:
        UserInputError: a shard is missing, was added, or has other bytes.
    """
    changed = changed_since_import(pool, known_files)
    if changed:
        more = f" (and {len(changed) - 1} more)" if len(changed) > 1 else ""
        raise UserInputError(
            f"{pool} is not what was imported as version {version_name(pool)}: {changed[0]}{more};"
            " restore it, or import it again (`pelican data import`)"
        )


def read_current(pool: Path) -> Version | None:
    """The version that `pool` links to; None before the first. Raises for a folder of another kind."""
    if not pool.is_symlink():
        if pool.exists():
            raise UserInputError(
                f"{pool} exists and was not made by an import; choose another --out"
            )
        return None
    return read_version(pool)


def shard_of(path: Path, rows: int) -> Shard:
    return Shard(name=path.name, rows=rows, bytes=path.stat().st_size, sha256=file_digest(path))


def commit(pool: Path, staged: Path, version: Version) -> Version:
    """Name the folder `staged` by its content, make it read-only, and let `pool` link to it.

    The link is replaced last and at once, so a reader sees the old version or the new one. The
    same content has the same name: then the folder that is there stays.
    """
    content = [[shard.name, shard.sha256] for shard in version.shards]
    # Not the paths in it: the same data have the same version on every machine.
    content += sorted([row["key"], row["code"]] for row in read_quarantine(staged))
    done = version.model_copy(update={"id": digest_of(content)[:16]})
    folder = versions_folder(pool)
    target = folder / done.id
    if target.exists():
        shutil.rmtree(staged)
        found = read_version(target)
        assert found is not None
        done = found
    else:
        (staged / VERSION).write_text(done.model_dump_json(indent=1) + "\n")
        for path in staged.iterdir():
            path.chmod(0o444)
        staged.rename(target)
    link = folder / ".link"
    link.unlink(missing_ok=True)
    link.symlink_to(os.path.join(folder.name, target.name))  # not the id that a record there says
    link.replace(pool)
    return done


def link_or_copy(source: Path, target: Path) -> None:
    """A second name for a file that never changes; a copy where the file system has no links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


@contextmanager
def lock_versions(pool: Path) -> Iterator[Path]:
    """The versions folder, held by this process alone. Raises UserInputError if it is held."""
    folder = versions_folder(pool)
    with lock_file(folder / ".lock", wait_s=0) as lock:
        if lock is None:
            raise UserInputError(f"another import writes to {pool}; wait for it")
        yield folder


def read_quarantine(pool: Path) -> Iterator[dict[str, str]]:
    """The rows that a version left out: source, place, key, id, code, reason."""
    path = pool / QUARANTINE
    if path.is_file():
        with path.open(encoding="utf-8") as file:
            yield from map(parse_json, file)
