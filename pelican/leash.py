"""No orphans: a process that ends when the one that started it, or the run's owner, is gone."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from pathlib import Path

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
