"""What a process needs of its surroundings: an end with its parent, threads, the other ranks."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

# What the processes of a job tell each other; alone, a process hears itself. Torch only if several.


def from_all(value: Any, group: Any = None) -> list[Any]:
    """The values of all ranks (of a process group, if not the default one); waits for the slowest."""
    dist = _several()
    if dist is None:
        return [value]
    values: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(values, value, group=group)
    return values


def from_first(value: Any) -> Any:
    """The value that rank 0 gave."""
    dist = _several()
    if dist is None:
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def _several() -> Any:
    """torch.distributed, if there is a group of more than this process."""
    if "torch" not in sys.modules:
        return None
    import torch.distributed as dist

    return dist if dist.is_initialized() and dist.get_world_size() > 1 else None


# No orphans: a process that ends when the one that started it, or the run's owner, is gone.

PARENT = "PELICAN_PARENT"  # pid of the launcher: its stage dies with it
OWNER = "PELICAN_OWNER"  # pid:start of the process that owns the run: launchers stop without it
_PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Ask the kernel for SIGKILL when the parent dies; Linux only, elsewhere nothing happens.

    Only if the parent named itself in PELICAN_PARENT; gone already means ending at once.
    """
    parent = os.environ.get(PARENT)
    if not parent:
        return
    hold(int(parent))


def hold(parent: int) -> None:
    """`die_with_parent` for the parent with this pid."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(130)


def guard_group() -> subprocess.Popen[bytes] | None:
    """A process that kills this one's group when this one is gone, however it went.

    For what is started by a library, and so does not ask the kernel itself. None if the group is
    not this process's own: a launcher gives every stage one.
    """
    if os.getpgrp() != os.getpid():
        return None
    return subprocess.Popen(  # it reads until the last writer, this process, has closed the pipe
        ["/bin/sh", "-c", f"read -r nothing; kill -9 -{os.getpid()}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def identity(pid: int) -> str:
    """`pid:start`, which no other process ever has; `pid:` where /proc does not exist."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return f"{pid}:"
    fields = stat.rpartition(")")[2].split()
    return f"{pid}:{'' if fields[0] == 'Z' else fields[19]}"


def alive(process: str) -> bool:
    """Whether the process with this identity still runs."""
    pid = int(process.partition(":")[0])
    if identity(pid) != process:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def owner_alive() -> bool:
    """Whether the run's owner still runs; true if none is named."""
    owner = os.environ.get(OWNER)
    return not owner or alive(owner)


# Work that waits for the network, several items at a time, with the results in order.

T = TypeVar("T")
R = TypeVar("R")


def in_order(function: Callable[[T], R], items: Iterable[T], workers: int) -> Iterator[R]:
    """`function` of every item, in their order; at most `2 * workers` items are held at once.

    `items` is read by the caller's thread, so it may be an engine that generates meanwhile. With
    one worker nothing runs in another thread. The first error ends the iteration.
    """
    if workers <= 1:
        yield from map(function, items)
        return
    running: deque[Future[R]] = deque()
    with ThreadPoolExecutor(workers) as threads:
        try:
            for item in items:
                running.append(threads.submit(function, item))
                while running and (running[0].done() or len(running) >= 2 * workers):
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        finally:
            threads.shutdown(wait=False, cancel_futures=True)
