"""`python -m pelican.base.pod STAGE SPEC PROCESSES`: what a pod of a job starts.

Runs the stage, under torchrun if the job has several processes, and says why it ended: in the
container's exit code and in its termination message, where whoever follows the job looks.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from types import FrameType

from pelican.base.parse import parse_json
from pelican.errors import InfrastructureError, PelicanError, ResourceError

ERRORS = "PELICAN_ERRORS"  # folder in which every rank notes why it failed
MESSAGE = Path("/dev/termination-log")
BUG, AWAY, MEMORY = (
    error.exit_code for error in (PelicanError, InfrastructureError, ResourceError)
)
_OOM_COUNTERS = ("/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control")
# Variables of the training operator that a single process must not see, because it is no group.
_GROUP = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


def command(stage: str, spec: str, processes: int, nodes: int, elastic: bool = False) -> list[str]:
    """The command of a pod: the stage alone, or under torchrun if the job has several processes.
    torchrun takes nodes and rank from the operator's PET_* variables.
    """
    one = ["pelican", "stage", stage, "--spec", spec]
    if processes * nodes == 1:
        return [sys.executable, "-m", *one]
    run = ["torch.distributed.run", "--nproc-per-node", str(processes)]
    if not elastic:
        run += ["--max-restarts", "0"]
    return [sys.executable, "-m", *run, "--module", *one]


def environment(folder: str, nodes: int, processes: int) -> dict[str, str]:
    """The container's variables, with the folder where ranks note their errors."""
    alone = nodes * processes == 1
    kept = {k: v for k, v in os.environ.items() if not (alone and k in _GROUP)}
    return {**kept, ERRORS: folder, "PYTHONUNBUFFERED": "1"}


def first_error(folder: Path) -> dict[str, object] | None:
    """What the rank that failed first noted.

    A note that another rank is gone (exit code 75) counts only if there is no other note.
    """
    lost = None
    for note in sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime_ns):
        try:
            found = parse_json(note.read_text())
        except (OSError, ValueError):
            continue
        if isinstance(found, dict) and found.get("exit_code") != AWAY:
            return found
        if isinstance(found, dict):
            lost = lost or found
    return lost


def wait(child: subprocess.Popen[bytes], folder: Path, elastic: bool) -> int:
    """Wait for the stage's process and return its exit code.

    An elastic torchrun is ended as soon as a rank notes an error that a restart can't mend.
    """
    while elastic:
        try:
            return child.wait(1.0)
        except subprocess.TimeoutExpired:
            error = first_error(folder)
            if error is not None and error.get("exit_code") != AWAY:
                child.terminate()
                break
    return child.wait()


def memory_ran_out() -> bool:
    """Whether the kernel killed a process of this container for its memory."""
    for counter in _OOM_COUNTERS:
        try:
            lines = Path(counter).read_text().splitlines()
        except OSError:
            continue
        if any(line.split()[0] == "oom_kill" and line.split()[1] != "0" for line in lines):
            return True
    return False


def explain_end(code: int, error: dict[str, object] | None, oom: bool) -> tuple[int, str]:
    """The exit code and the message to report of a stage whose process ended with `code`.

    They are those that a rank noted (`error`), else a message on memory if the kernel killed a
    process (`oom`), else what `code` itself says.
    """
    if code == 0:
        return 0, ""
    if error is not None:
        return int(str(error.get("exit_code", BUG))), str(error.get("message", ""))
    if oom:
        return MEMORY, "the container's memory ran out; ask for more, or make the stage smaller"
    if code < 0:
        return 128 - code, f"killed by {signal.Signals(-code).name}"
    return code, ""


def main(arguments: list[str]) -> int:
    stage, spec, processes = arguments[0], arguments[1], int(arguments[2])
    least, _, most = (os.environ.get("PET_NNODES") or "1").partition(":")
    nodes, elastic = int(most or least), bool(most)
    stopped: list[int] = []
    with tempfile.TemporaryDirectory(prefix="pelican-errors-") as folder:
        child = subprocess.Popen(
            command(stage, spec, processes, nodes, elastic),
            env=environment(folder, nodes, processes),
        )

        def stop(number: int, frame: FrameType | None) -> None:
            stopped.append(number)
            child.send_signal(number)

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stop)
        code = wait(child, Path(folder), elastic)
        error = first_error(Path(folder))
        status, message = explain_end(code, error, memory_ran_out())
    if elastic and status == BUG and error is None:  # a stage notes its own: this is torchrun's
        status, message = AWAY, "the job's pods did not find each other again"
    if stopped and status not in (0, 2, MEMORY):
        status, message = 128 + stopped[0], "the pod was stopped"
    if status:
        note = json.dumps({"exit_code": status, "message": message[:3000]})
        try:
            MESSAGE.write_text(note)
        except OSError:
            print(note, file=sys.stderr, flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
