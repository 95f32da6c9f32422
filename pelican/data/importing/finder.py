"""Where the media of a source lie: paths of rows to files below the folders that are allowed."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from pelican.data.quarantine import RowError

FOLDERS = 16  # of one level that are looked into for a hint


@lru_cache(maxsize=1024)
def _resolved(folder: str) -> str:
    """Without links. Kept: files of a data set share few folders, and each part costs a call."""
    return str(Path(folder).resolve())


def _followed(base: str, rest: str) -> tuple[str, int]:
    """`rest` below `base` with every link followed, so that none leads out; its mode, 0 if none."""
    parent, name = os.path.split(os.path.join(base, rest))
    if name in ("", ".", ".."):
        target = str(Path(base, rest).resolve())
        return target, _mode(target)
    target = os.path.join(_resolved(parent), name)
    mode = _mode(target)
    if stat.S_ISLNK(mode):
        target = str(Path(target).resolve())
        mode = _mode(target)
    return target, mode


def _mode(path: str) -> int:
    """Type and rights of what stands at `path`, of a link itself; 0 if nothing does."""
    try:
        return os.lstat(path).st_mode
    except (OSError, ValueError):
        return 0


@lru_cache(maxsize=64)
def _folders(root: str) -> tuple[str, ...]:
    """The folders one and two levels below `root`, for a hint: the first few."""
    found: list[str] = []
    level = [root]
    for _ in range(2):
        below: list[str] = []
        for folder in level:
            with suppress(OSError), os.scandir(folder) as entries:
                below += sorted(e.path for e in entries if e.is_dir(follow_symlinks=False))
        level = below[:FOLDERS]
        found += level
    return tuple(found)


@dataclass(frozen=True)
class Finder:
    """Where media lie. `mapping`: prefix in the data -> folder here; `roots` are tried in order.

    Nothing outside `roots` and the mapped folders is opened, whatever a row names.
    """

    roots: tuple[Path, ...]
    mapping: tuple[tuple[str, Path], ...] = ()

    def find(self, path: str, *, folder: bool = False) -> Path:
        """The file or folder that a row names. Raises RowError, with the mapping that would help."""
        if "://" in path:
            raise RowError("media_missing", f"{path!r} is an address; download it first")
        if "\x00" in path or any("\ud800" <= char <= "\udfff" for char in path):
            raise RowError("media_path", "a path holds a zero byte or half a character")
        for prefix, here in self.mapping:
            if path == prefix or path.startswith(prefix.rstrip("/") + "/"):
                rest = path[len(prefix.rstrip("/")) :].lstrip("/")
                found = self._inside(here, rest, path, folder)
                if found is None:
                    raise RowError(
                        "media_missing", f"{path!r} is not in {here}, where --map puts it"
                    )
                return found
        if not path.startswith("/"):
            for root in self.roots:
                found = self._inside(root, path, path, folder)
                if found is not None:
                    return found
            raise RowError(
                "media_missing", f"{path!r} is below none of the media folders{self._hint(path)}"
            )
        for root in self.roots:
            base = _resolved(str(root))
            if Path(path).is_relative_to(base):
                found = self._inside(root, str(Path(path).relative_to(base)), path, folder)
                if found is not None:
                    return found
                raise RowError("media_missing", f"{path!r} is not there")
        raise RowError("media_missing", f"{path!r} is outside the media folders{self._hint(path)}")

    def _inside(self, root: Path, rest: str, path: str, folder: bool) -> Path | None:
        try:
            base = _resolved(str(root))
            target, mode = _followed(base, rest)
            if target != base and not target.startswith(base.rstrip("/") + "/"):
                raise RowError("media_path", f"{path!r} leaves the media folder")
            there = stat.S_ISDIR(mode) if folder else stat.S_ISREG(mode)
            return Path(target) if there else None
        except OSError as error:
            raise RowError("media_path", f"{path!r:.200} is no path ({error.strerror})") from None
        except RuntimeError:
            raise RowError("media_path", f"{path!r} is a loop of links") from None

    def _hint(self, path: str) -> str:
        """The option that would find it: a --map if its last parts are below a root, or a --media."""
        parts = Path(path).parts
        if ".." in parts:
            return ""
        for start in range(1, len(parts)):
            rest = Path(*parts[start:])
            for root in self.roots:
                if os.path.exists(root / rest):
                    return f"; --map {Path(*parts[:start])}={root} would find it"
        if path.startswith("/"):
            return "; --map OLD=NEW says where they lie"
        for root in self.roots:
            for folder in _folders(str(root)):
                if os.path.exists(os.path.join(folder, path)):
                    return f"; --media {folder} would find it"
        return ""
