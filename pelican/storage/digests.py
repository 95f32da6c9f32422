"""SHA-256 of this machine's files, noted so that a file is read once to be known, and not each time.

A note says that the file of this size, inode and times had that digest. It is made where a digest is
computed anyway (a stage's commit, a download) and by whoever first needs one. Notes lie in the
machine's cache, not in the store: another machine may see other bytes below the same name. A disk that
rots changes none of what a note compares, so whoever hands weights on (`register`, `promote`, `export`,
`pelican show --verify`) hashes in full, with `trust=False`.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import uuid
from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import astuple, dataclass
from functools import cache
from pathlib import Path

from pelican.base.files import lock_file, replacing
from pelican.base.parse import parse_json
from pelican.config import env

_TICK_S = 0.02  # a change within the same tick of the kernel's clock, 1 to 10 ms, has the same time
AT_ONCE = 8  # files hashed side by side: hashlib leaves Python's lock meanwhile


@dataclass(frozen=True)
class Identity:
    """What changes when a file does: bytes, time of change, inode, time of the inode's change.

    The last can't be put back as the time of change can (`touch -d`).
    """

    size: int
    mtime_ns: int
    inode: int
    ctime_ns: int

    @classmethod
    def of(cls, path: Path | int) -> Identity:
        """The identity of the file at a path, or of an open one by its descriptor."""
        stat = os.stat(path)
        return cls(stat.st_size, stat.st_mtime_ns, stat.st_ino, stat.st_ctime_ns)


def file_digest(path: Path) -> str:
    """SHA-256 of a file, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_digests(paths: Iterable[Path], *, trust: bool = True) -> dict[Path, str]:
    """SHA-256 of each file; those that are not noted are read, side by side, and noted.

    One process of the machine reads the files of a folder; others that ask for them wait, and then
    find its notes.

    Args:
        paths: of files.
        trust: whether a note counts; False reads every file.

    Raises:
        OSError: a file can't be read.
    """
    by_folder: dict[Path, list[Path]] = defaultdict(list)
    for path in paths:
        by_folder[_place(path).parent].append(path)
    found: dict[Path, str] = {}
    for folder, files in sorted(by_folder.items()):
        known = _find(files) if trust else {}
        if len(known) < len(files):
            known = _take(folder, files, trust)
        found |= known
    return found


def known_digests(paths: Iterable[Path]) -> dict[Path, str]:
    """SHA-256 of those files that this machine has read before; again only where one looks altered."""
    return file_digests([path for path in paths if _read_note(path) is not None])


def note_digest(path: Path, digest: str, identity: Identity) -> None:
    """Note a digest of a file as it was then. A cache that can't be written costs time, no more."""
    note = _note_of(path)
    with suppress(OSError):
        note.parent.mkdir(parents=True, exist_ok=True)
        with replacing(note) as temporary:
            temporary.write_text(json.dumps([boot_id(), digest, *astuple(identity)]))


def _place(path: Path) -> Path:
    """The path by which a file is known, whatever links lead to its folder."""
    return Path(os.path.realpath(path.parent), path.name)


def _note_of(path: Path) -> Path:
    """The file of the cache that holds a file's note: one each, so that no writer meets another."""
    name = hashlib.sha256(os.fsencode(_place(path))).hexdigest()
    return env.cache() / "digests" / name[:2] / name[2:34]


def _read_note(path: Path) -> tuple[Identity, str] | None:
    """What was noted of a file, whatever it looks like now; None if nothing, or if that is damaged.

    Notes end with the machine's uptime: a file that was not synced before a power cut may have its
    size and its times, and other bytes.
    """
    try:
        boot, digest, *identity = parse_json(_note_of(path).read_bytes())
        return (Identity(*map(int, identity)), str(digest)) if boot == boot_id() else None
    except (OSError, ValueError, TypeError):
        return None


def _find(files: Iterable[Path]) -> dict[Path, str]:
    """The digests of those files that are as they were noted."""
    notes = {file: note for file in files if (note := _read_note(file)) is not None}
    return {file: digest for file, (was, digest) in notes.items() if was == Identity.of(file)}


def _take(folder: Path, files: list[Path], trust: bool) -> dict[Path, str]:
    """The digests of all files; what is not noted, or not trusted, is read under the folder's lock."""
    lock = _note_of(folder).with_suffix(".lock")
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        with lock_file(lock):
            known = _find(files) if trust else {}
            return known | _hash([file for file in files if file not in known])
    except OSError:  # a cache that can't be written only costs time
        return _hash(files)


def _hash(files: list[Path]) -> dict[Path, str]:
    """Read files side by side, and note those that stayed as they were meanwhile."""
    before = {file: Identity.of(file) for file in files}
    newest = max((identity.ctime_ns for identity in before.values()), default=0)
    time.sleep(max(0.0, min(_TICK_S, _TICK_S - (time.time_ns() - newest) / 1e9)))
    with ThreadPoolExecutor(AT_ONCE) as threads:
        digests = dict(zip(files, threads.map(file_digest, files), strict=True))
    for file, digest in digests.items():
        if Identity.of(file) == before[file]:
            note_digest(file, digest, before[file])
    return digests


@cache
def boot_id() -> str:
    """What identifies the last start of this machine; without a kernel that says it, this process."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return uuid.uuid4().hex
