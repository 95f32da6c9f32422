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
from collections.abc import Iterable, Mapping
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
        by_folder[Path(os.path.realpath(path.parent))].append(path)
    found: dict[Path, str] = {}
    for folder, files in sorted(by_folder.items()):
        notes = _Notes(folder)
        known = notes.find(files) if trust else {}
        if len(known) < len(files):
            known = notes.take(files, trust)
        found |= known
    return found


def known_digests(paths: Iterable[Path]) -> dict[Path, str]:
    """SHA-256 of those files that this machine has read before; again only where one looks altered."""
    noted = [path for path in paths if _Notes(Path(os.path.realpath(path.parent))).has(path)]
    return file_digests(noted)


def note_digest(path: Path, digest: str, identity: Identity) -> None:
    """Note a digest that was computed elsewhere, of the file as it was then."""
    _Notes(Path(os.path.realpath(path.parent))).write({path.name: (identity, digest)})


class _Notes:
    """The notes of one folder, a file of the cache. They end with the machine's uptime.

    A file that was not synced before a power cut may have its size and its times, and other bytes.
    """

    def __init__(self, folder: Path) -> None:
        name = hashlib.sha256(os.fsencode(folder)).hexdigest()[:32]
        self._file = env.cache() / "digests" / f"{name}.json"

    def find(self, files: Iterable[Path]) -> dict[Path, str]:
        """The digests of those files that are as they were noted."""
        notes, found = self._read(), {}
        for file in files:
            note = notes.get(file.name)
            if note is not None and note[0] == Identity.of(file):
                found[file] = note[1]
        return found

    def has(self, file: Path) -> bool:
        """Whether a file of this name was noted, whatever it looks like now."""
        return file.name in self._read()

    def take(self, files: list[Path], trust: bool) -> dict[Path, str]:
        """The digests of all files; what is not noted, or not trusted, is read under a lock."""
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with lock_file(self._file.with_suffix(".lock")):
                return self._hash(files, trust)
        except OSError:  # a cache that can't be written only costs time
            return _hash_all(files)[0]

    def _hash(self, files: list[Path], trust: bool) -> dict[Path, str]:
        known = self.find(files) if trust else {}
        digests, notes = _hash_all([file for file in files if file not in known])
        self.write(notes)
        return known | digests

    def write(self, notes: Mapping[str, tuple[Identity, str]]) -> None:
        """Add notes, by the name of the file. A cache that can't be written costs time, no more."""
        if not notes:
            return
        tree = {name: [*astuple(identity), digest] for name, (identity, digest) in notes.items()}
        with suppress(OSError):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with replacing(self._file) as temporary:
                temporary.write_text(
                    json.dumps({"boot": boot_id(), "files": self._read_tree() | tree})
                )

    def _read(self) -> dict[str, tuple[Identity, str]]:
        try:
            return {
                name: (Identity(*map(int, note[:4])), str(note[4]))
                for name, note in self._read_tree().items()
            }
        except (TypeError, ValueError, IndexError):  # damaged
            return {}

    def _read_tree(self) -> dict[str, list[int | str]]:
        try:
            tree = parse_json(self._file.read_bytes())
            files = tree["files"] if tree["boot"] == boot_id() else {}
            return files if isinstance(files, dict) else {}
        except (OSError, ValueError, LookupError, TypeError):
            return {}


def _hash_all(
    files: list[Path],
) -> tuple[dict[Path, str], dict[str, tuple[Identity, str]]]:
    """Digests by path, and notes by name of those files that stayed as they were meanwhile."""
    before = {file: Identity.of(file) for file in files}
    newest = max((identity.ctime_ns for identity in before.values()), default=0)
    time.sleep(max(0.0, min(_TICK_S, _TICK_S - (time.time_ns() - newest) / 1e9)))
    with ThreadPoolExecutor(AT_ONCE) as threads:
        digests = dict(zip(files, threads.map(file_digest, files), strict=True))
    steady = [file for file in files if Identity.of(file) == before[file]]
    return digests, {file.name: (before[file], digests[file]) for file in steady}


@cache
def boot_id() -> str:
    """What identifies the last start of this machine; without a kernel that says it, this process."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return uuid.uuid4().hex
