"""Warm starts: a process that has imported the libraries forks a stage in milliseconds.

Importing torch, transformers and TRL takes up to ten seconds, and a small run has a score of short
stages. The local pipeline starts `python -m pelican.launch.warm SOCKET` beside itself and names the
socket in PELICAN_WARM; launchers that find it answering have their stages forked there, the others
start Python anew. A forked stage has its own session, environment and output, as if it were started.
It never outlives the launcher that asked for it, nor this process.

A request is a length (4 bytes, with the descriptors of output and lock) and JSON: arguments,
environment. The answers are lines of JSON: the pid, and at the end the exit status.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from pelican.base.parse import parse_json
from pelican.base.process import PARENT, die_with, die_with_parent
from pelican.config import env
from pelican.config.stages import STAGES, Uses

PRELOADED = (
    "torch",
    "pelican.engines.transformers",
    "pelican.training.grpo",
    "pelican.training.sft",
    *(row.module for row in STAGES.values() if row.uses is not Uses.CPU),
)
_LENGTH = struct.Struct("!I")


class Forked:
    """A process that the warm one forked for us; the part of `subprocess.Popen` that we use."""

    def __init__(
        self, path: str, arguments: Sequence[str], environment: Mapping[str, str], lock: int
    ) -> None:
        """Raises OSError if nobody answers at `path`."""
        body = json.dumps({"arguments": list(arguments), "environment": dict(environment)}).encode()
        read, write = os.pipe()
        self._connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._answer = b""
        self.returncode: int | None = None
        try:
            self._connection.connect(path)
            socket.send_fds(self._connection, [_LENGTH.pack(len(body))], [write, lock])
            self._connection.sendall(body)
            self.pid = int(parse_json(self._line(timeout=10.0))["pid"])
        except (OSError, ValueError) as error:
            os.close(read)
            self._connection.close()
            raise OSError(f"no warm start from {path}: {error}") from error
        finally:
            os.close(write)
        self.stdout: IO[bytes] = os.fdopen(read, "rb")

    def poll(self) -> int | None:
        """The exit status, negative for a signal; None while it runs."""
        return self._wait(0.0)

    def wait(self, timeout: float) -> int:
        """Raises subprocess.TimeoutExpired."""
        code = self._wait(timeout)
        if code is None:
            raise subprocess.TimeoutExpired("a warm start", timeout)
        return code

    def _wait(self, timeout: float) -> int | None:
        if self.returncode is None:
            with suppress(TimeoutError, BlockingIOError):
                line = self._line(timeout)
                # No answer but the end: the warm process is gone, and all it forked with it.
                self.returncode = int(parse_json(line)["code"]) if line else -signal.SIGKILL
                self._connection.close()
        return self.returncode

    def _line(self, timeout: float) -> bytes:
        """The next answer; empty at the end. Raises TimeoutError or BlockingIOError."""
        self._connection.settimeout(timeout)
        while b"\n" not in self._answer:
            try:
                chunk = self._connection.recv(4096)
            except ConnectionError:
                return b""
            if not chunk:
                return b""
            self._answer += chunk
        line, _, self._answer = self._answer.partition(b"\n")
        return line


def start(arguments: Sequence[str], environment: Mapping[str, str], lock: int) -> Forked | None:
    """A warm start of `python -m pelican ARGUMENTS`; None if there is nobody to give one."""
    path = env.read(env.WARM)
    if path in ("", "off"):
        return None
    try:
        return Forked(path, arguments, environment, lock)
    except OSError:
        return None


def has_gpu(devices: Path = Path("/dev")) -> bool:
    """Whether the driver of a GPU is there; asked of its files, because CUDA must not be."""
    return any(devices.glob("nvidia[0-9]*"))


@contextmanager
def warm_process(preloaded: Sequence[str] = PRELOADED) -> Iterator[None]:
    """Start the warm process beside this one and name its socket.

    None is started if PELICAN_WARM is set, nor on a machine with a GPU: the imports of a training
    look at CUDA if vLLM is installed, and what is forked after that can't use it.
    """
    if env.is_set(env.WARM) or has_gpu():
        yield
        return
    with tempfile.TemporaryDirectory(prefix="pelican-") as folder:  # readable by this user alone
        path = f"{folder}/warm"
        process = subprocess.Popen(
            [sys.executable, "-m", "pelican.launch.warm", path, *preloaded],
            env={**env.read_all(), PARENT: str(os.getpid()), "OMP_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
        )
        try:
            with env.changed({env.WARM: path}):
                yield
        finally:
            process.terminate()
            process.wait()


def serve(path: str, preloaded: Sequence[str]) -> None:
    """Answer requests until SIGTERM or the parent's end."""
    die_with_parent()
    os.environ.pop(PARENT, None)
    for name in preloaded:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # a collection in a child would copy every page
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(f"{path}.partial")
        listener.listen(16)
        Path(f"{path}.partial").rename(path)
        _Server(listener).run()


class _Server:
    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._children: dict[int, socket.socket] = {}
        self._selector = selectors.DefaultSelector()
        self._selector.register(listener, selectors.EVENT_READ)

    def run(self) -> None:
        while True:
            for key, _ in self._selector.select(0.05 if self._children else None):
                if key.fileobj is self._listener:
                    connection, _ = self._listener.accept()
                    self._fork(connection)
                else:
                    self._left(key.data)
            self._reap()

    def _fork(self, connection: socket.socket) -> None:
        connection.settimeout(10.0)
        descriptors: list[int] = []
        try:
            head, descriptors, _, _ = socket.recv_fds(connection, _LENGTH.size, 2)
            (size,) = _LENGTH.unpack(head)
            body = b""
            while len(body) < size and (chunk := connection.recv(size - len(body))):
                body += chunk
            request = parse_json(body)
            server = os.getpid()
            pid = os.fork()
            if pid == 0:
                self._listener.close()
                for other in self._children.values():
                    other.close()
                connection.close()
                _become(request["arguments"], request["environment"], server, descriptors[0])
            connection.sendall(json.dumps({"pid": pid}).encode() + b"\n")
            self._children[pid] = connection
            self._selector.register(connection, selectors.EVENT_READ, pid)
        except (OSError, ValueError, KeyError, struct.error) as error:
            print(f"warm start refused: {error}", file=sys.stderr, flush=True)
            connection.close()
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def _left(self, pid: int) -> None:
        """The launcher is gone: so is its stage."""
        self._selector.unregister(self._children[pid])
        for kill in (os.killpg, os.kill):  # it may not have become the leader of its group yet
            with suppress(ProcessLookupError):
                kill(pid, signal.SIGKILL)

    def _reap(self) -> None:
        while self._children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            connection = self._children.pop(pid)
            with suppress(KeyError):
                self._selector.unregister(connection)
            with suppress(OSError):
                code = os.waitstatus_to_exitcode(status)
                connection.sendall(json.dumps({"code": code}).encode() + b"\n")
            connection.close()


def _become(
    arguments: Sequence[str], environment: Mapping[str, str], server: int, output: int
) -> None:
    """In the child: the stage's process. Never returns."""
    code = 1
    try:
        os.setsid()
        die_with(server)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.environ.clear()
        os.environ.update(environment)
        os.environ[PARENT] = str(server)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if torch := sys.modules.get("torch"):
            torch.set_num_threads(int(environment.get("OMP_NUM_THREADS", "1")))
        sys.argv = ["pelican", *arguments]
        runpy.run_module("pelican", run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda number, frame: os._exit(0))
    serve(sys.argv[1], sys.argv[2:])
