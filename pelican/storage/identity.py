"""Whether a file is still the one that it was, without reading it."""

from __future__ import annotations

import os
import uuid
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True)
class Identity:
    """What changes when a file does: bytes, time of change, inode."""

    size: int
    mtime_ns: int
    inode: int

    @classmethod
    def of(cls, path: Path | int) -> Identity:
        """Of a path or a descriptor."""
        stat = os.stat(path)
        return cls(stat.st_size, stat.st_mtime_ns, stat.st_ino)


@cache
def boot() -> str:
    """Since when this machine's memory holds what was written but not yet brought to the disk.

    Where the kernel does not say, every process is a start of its own.
    """
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return uuid.uuid4().hex
