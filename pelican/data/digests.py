"""What identifies a folder of input: its files' digests, or, among replicas, their sizes and times."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path

from pelican.data.versions import VERSION, read_version
from pelican.storage.manifests import file_digest

# A file or folder -> what stands for each file, by its path below it.
Reader = Callable[[Path], dict[str, object]]


def files_below(path: Path) -> list[Path]:
    """The file itself, or all files of a folder."""
    return [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]


def hashed(path: Path) -> dict[str, object]:
    """SHA-256 of every file, all of them read."""
    return {p.relative_to(path).as_posix(): file_digest(p) for p in files_below(path)}


def known(path: Path) -> dict[str, object]:
    """As `hashed`; but shards of an imported version count by what `version.json` says of them.

    That is, those that are as they were committed: read-only, of that size, and not written since.
    """
    version = read_version(path) if path.is_dir() else None
    if version is None:
        return hashed(path)
    committed = (path / VERSION).stat().st_mtime_ns
    said = {shard.name: shard for shard in version.shards}
    found: dict[str, object] = {}
    for file in files_below(path):
        name, state = file.relative_to(path).as_posix(), file.stat()
        shard = said.get(name)
        untouched = (
            shard is not None
            and state.st_size == shard.bytes
            and state.st_mtime_ns <= committed
            and not state.st_mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH)
        )
        found[name] = shard.sha256 if shard is not None and untouched else file_digest(file)
    return found


def seen(path: Path) -> dict[str, object]:
    """Size and time of every file, in nanoseconds: nothing is read."""
    return {
        p.relative_to(path).as_posix(): [p.stat().st_size, p.stat().st_mtime_ns]
        for p in files_below(path)
    }
