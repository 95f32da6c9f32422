"""Files that are there whole or not at all, names that stay in their folder, and locks.

A lock ends with the processes that hold it.
"""

from __future__ import annotations

import fcntl
import math
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pelican.errors import UserInputError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`; the file takes its place if the block ends without an error.

    The name is unique, because a slow replica and the one that took over its shard write the same
    file at the same time.
    """
    with replacement(path) as temporary:
        yield temporary
        temporary.replace(path)


@contextmanager
def replacement(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`, for who decides how it takes the place; gone after the block."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def resolve_below(root: Path, name: str) -> Path:
    """The path, links followed, of what a record, a listing or a data set names below `root`.

    Raises:
        UserInputError: the name is empty, is no path, or leads out: by `..`, from `/`, or by a link.
    """
    try:
        base = root.resolve()
        found = (base / name).resolve()
    except (OSError, RuntimeError, ValueError):  # a loop of links; a zero byte
        found = base = root
    if base not in found.parents:
        raise UserInputError(
            f"the stored name {name!r} leaves its folder {root}; a record that holds it was not"
            " written by Pelican: restore it, or take another"
        )
    return found


@contextmanager
def lock_file(path: Path, *, wait_s: float = math.inf) -> Iterator[int | None]:
    """Lock `path` (flock), which is created if needed.

    Yields the descriptor that holds the lock, or None if somebody else still had it after
    `wait_s`. Children that inherit the descriptor hold the lock, too; it ends with the last process
    that has it, however that process ends.
    """
    flags = os.O_RDWR | os.O_CREAT
    try:
        descriptor = os.open(path, flags, 0o666)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, flags, 0o666)
    try:
        yield descriptor if _lock(descriptor, wait_s) else None
    finally:
        os.close(descriptor)


def _lock(descriptor: int, wait_s: float) -> bool:
    """Whether the lock was free, or became so within `wait_s`."""
    deadline = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait_s == math.inf else fcntl.LOCK_NB))
            return True
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.1)


@contextmanager
def run_alone(path: Path, what: str, *, wait_s: float = 0.0) -> Iterator[int]:
    """Lock `path` while this process runs `what`; yields the descriptor to hand to children.

    Raises:
        UserInputError: another process, which the sentence names, runs `what` after `wait_s`.
    """
    with lock_file(path, wait_s=wait_s) as descriptor:
        if descriptor is None:
            raise UserInputError(
                f"{what} is being run by process {path.read_text() or 'unknown'};"
                " wait for it or end it first"
            )
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield descriptor


def is_locked(path: Path) -> bool:
    """Whether some process holds the lock of `path` now; asked without writing anything."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)  # a network disk asks no more rights
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
