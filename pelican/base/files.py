"""Files that are there whole or not at all, and a lock that dies with the processes that hold it."""

from __future__ import annotations

import fcntl
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pelican.errors import UserInputError

# Files that are there whole or not at all.


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`; the file takes its place if the block ends well.

    Nobody else has that name: a slow replica and the one that took its shard over don't meet.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


# A lock that holds as long as any process that inherited it lives, and never outlives them.


@contextmanager
def exclusive(path: Path, what: str, *, wait_s: float = 0.0) -> Iterator[int]:
    """Hold `path` (flock); yields the descriptor to hand to children.

    Raises UserInputError naming `what` and the holder if it is still taken after `wait_s`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        deadline = time.monotonic() + wait_s
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() < deadline:
                    time.sleep(0.1)
                    continue
                holder = os.pread(descriptor, 64, 0).decode() or "unknown"
                raise UserInputError(
                    f"{what} is being run by process {holder}; wait for it or end it first"
                ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield descriptor
    finally:
        os.close(descriptor)


def held(path: Path) -> bool:
    """Whether some process holds the lock now."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
