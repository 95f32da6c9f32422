"""Processes: collectives over the ranks of a job, an end with the parent, threads with ordered results."""

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

# Collectives over the processes of a job. A process that is alone gets its own value back, without torch.


def all_gather_object(value: Any, group: Any = None) -> list[Any]:
    """The values of all ranks, in their order; waits for the slowest.

    Args:
        value: this rank's, anything that pickle takes.
        group: the process group, the default one if None.
    """
    dist = _distributed()
    if dist is None:
        return [value]
    values: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(values, value, group=group)
    return values


def broadcast_object(value: Any) -> Any:
    """Rank 0's value, on every rank; the others' is ignored."""
    dist = _distributed()
    if dist is None:
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def _distributed() -> Any:
    """torch.distributed, or None where no process group of several ranks is open."""
    if "torch" not in sys.modules:
        return None
    import torch.distributed as dist

    return dist if dist.is_initialized() and dist.get_world_size() > 1 else None


# No orphans: a process ends when the one that started it, or the owner of the run, is gone.

PARENT = "PELICAN_PARENT"  # pid of the launcher, with which its stage dies
OWNER = "PELICAN_OWNER"  # pid:start of the run's owner, without which launchers stop
_PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Ask the kernel for SIGKILL when the parent dies, if it put its pid into PELICAN_PARENT.

    Linux only; elsewhere nothing happens. If the parent is gone already, this process ends at once.
    """
    parent = os.environ.get(PARENT)
    if not parent:
        return
    die_with(int(parent))


def die_with(parent: int) -> None:
    """Ask the kernel for SIGKILL when `parent`, the pid of this process's parent, dies."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(130)


def guard_group() -> subprocess.Popen[bytes] | None:
    """Start a process that kills this one's process group once this one is gone, for any reason.

    It is for the children of a library (vLLM's engine, for example), because they do not call
    `die_with_parent`. None if this process does not lead its group: a launcher makes every stage lead
    one.
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


def unique_pid(pid: int) -> str:
    """`pid:start` of a process, unlike a pid never given to another; `pid:` without /proc."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return f"{pid}:"
    fields = stat.rpartition(")")[2].split()
    return f"{pid}:{'' if fields[0] == 'Z' else fields[19]}"


def is_running(process: str) -> bool:
    """Whether the process with this identity still runs."""
    pid = int(process.partition(":")[0])
    if unique_pid(pid) != process:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def owner_alive() -> bool:
    """Whether the process in PELICAN_OWNER still runs; true if the variable is not set."""
    owner = os.environ.get(OWNER)
    return not owner or is_running(owner)


# Threads for work that waits for the network: several items at a time, results in order.

T = TypeVar("T")
R = TypeVar("R")


def in_order(function: Callable[[T], R], items: Iterable[T], workers: int) -> Iterator[R]:
    """`function(item)` of every item, in the order of the items, computed by `workers` threads.

    The caller's thread reads `items`, so they may come from an engine that generates meanwhile. At
    most `2 * workers` items are held at once. With one worker no thread is started. The first error
    ends the iteration.
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
