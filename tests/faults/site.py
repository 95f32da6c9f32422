"""Where faults strike: one run in a store of its own (a folder, a small disk, a bucket), and its commands."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from pelican.cli.main import main
from pelican.config.presets import find_recipe
from pelican.config.recipe import Recipe
from pelican.storage import open_store
from pelican.storage.s3 import S3Store
from pelican.storage.store import MANIFEST, FolderStore, ObjectStore
from tests.conftest import FAKES, ROOT, World, make_world
from tests.faults.drive import drive
from tests.metaloop.small import OVERRIDES
from tests.minio_server import Server

RUN = "struck"
LIMIT_S = 600  # of one command: what hangs is a deviation
BUCKET = "faults"
HERE = Path(__file__).parent


@dataclass(frozen=True)
class Form:
    """Of what stages the run consists; `timed` files tell of time, and are not compared."""

    name: str
    overrides: tuple[str, ...]
    environment: Mapping[str, str]
    timed: tuple[str, ...] = ()

    @property
    def recipe(self) -> Recipe:
        return find_recipe("tiny", list(self.overrides))


def make_form(name: str, root: Path) -> Form:
    """`made` stages on made pools below `root`, or `real` ones on the shipped models and samples."""
    common = {"OMP_NUM_THREADS": "1", "PELICAN_FAKE": "{}"}
    if name == "real":
        common["PYTHONPATH"] = str(ROOT)
        return Form(name, tuple(OVERRIDES.split()), common, ("curve.parquet", "summary.json"))
    if not root.exists():
        root.mkdir()
        Forked(lambda: make_world(root), root / "out", root / "err").wait(LIMIT_S)
    small = ["rollout.workers=1", "rl.processes=1", "sft.processes=1", "loops=1"]
    common |= {"PYTHONPATH": os.pathsep.join([str(FAKES), str(ROOT)]), "PELICAN_WARM": "off"}
    return Form(name, (*World(root).overrides, *small), common)


@dataclass(frozen=True)
class Ended:
    """A command that has ended."""

    status: int
    out: str
    err: str


class Forked:
    """A function that is called in a fork, with what the harness needs of a Popen.

    A fork, because its imports are there, because steps end their process, and because polars' threads must not be
    in the harness, which forks again.
    """

    def __init__(
        self,
        function: Callable[[], object],
        out: Path,
        err: Path,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Start it, in a session of its own; `out` and `err` get what it says."""
        self.status: int | None = None
        self.pid = os.fork()
        if self.pid:
            return
        code: object = 1
        try:
            os.setsid()
            signal.signal(signal.SIGTERM, signal.SIG_DFL)  # not the harness's
            for number, path in ((1, out), (2, err)):
                os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
            sys.stdout.reconfigure(line_buffering=True)
            if environment is not None:
                os.environ.clear()
                os.environ.update(environment)
            function()
            code = 0
        except SystemExit as left:
            code = left.code or 0
        except BaseException:
            traceback.print_exc()
        finally:
            with suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code if isinstance(code, int) else 1)

    def poll(self) -> int | None:
        """Its status, or None while it runs."""
        if self.status is None:
            pid, state = os.waitpid(self.pid, os.WNOHANG)
            self.status = os.waitstatus_to_exitcode(state) if pid else None
        return self.status

    def wait(self, timeout: float) -> int:
        """Its status. Raises subprocess.TimeoutExpired."""
        if not wait_until(lambda: self.poll() is not None, timeout):
            raise subprocess.TimeoutExpired("a fork", timeout)
        return self.status or 0

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)


class Command:
    """A submission that runs: `pelican submit`, or its steps in one process."""

    def __init__(self, site: Site, number: int, steps: bool) -> None:
        self._out, self._err = (site.folder / f"{number}.{name}" for name in ("out", "err"))
        self._out.touch()
        if steps:
            self.process: Forked | subprocess.Popen[bytes] = Forked(
                lambda: drive(open_store(site.uri), RUN, site.form.recipe),
                self._out,
                self._err,
                site.environment,
            )
            return
        call = [sys.executable, "-m", "pelican", "submit", "--run", RUN, "--store", site.uri]
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(
                [*call, "--launcher", "local", "--set", " ".join(site.form.overrides)],
                env=site.environment,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    @property
    def began(self) -> bool:
        """Whether it has said something: before, it may be Python itself that starts."""
        return self._out.stat().st_size > 0 or not self.running

    def tree(self) -> list[psutil.Process]:
        """It and what it started; empty if it has ended."""
        with suppress(psutil.NoSuchProcess):
            top = psutil.Process(self.process.pid)
            return [top, *top.children(recursive=True)] if self.running else []
        return []

    def end(self) -> Ended:
        """Wait for it. Raises subprocess.TimeoutExpired if it hangs."""
        status = self.process.wait(LIMIT_S)
        return Ended(status, *(p.read_text(errors="replace") for p in (self._out, self._err)))


@dataclass
class Site:
    """One fault's: its folder, its store, what its commands have in their environment."""

    form: Form
    folder: Path
    uri: str
    token: str
    server: Server | None = None
    disk: bool = False  # the store is a small disk of its own
    extra: dict[str, str] = field(default_factory=dict)
    started: int = 0

    @property
    def environment(self) -> dict[str, str]:
        own = {"PELICAN_CACHE": str(self.folder / "cache"), "FAULT": self.token}
        return {**os.environ, **self.form.environment, **own, **self.extra}

    @property
    def store(self) -> ObjectStore:
        if self.server is None:
            return FolderStore(Path(self.uri))
        return S3Store(self.uri, cache=self.folder / "harness")

    def fill(self, reference: Path, left: int | None) -> None:
        """Copy a finished store here, without its last `left` stages; None: nothing of it."""
        if left is None:
            return
        if self.server is None:
            shutil.copytree(reference, self.uri, dirs_exist_ok=True)
        else:
            for path in sorted(path for path in reference.rglob("*") if path.is_file()):
                self.store.put(path.relative_to(reference).as_posix(), path)
        for prefix in stages_of(reference)[::-1][:left]:
            self.store.delete(prefix)
        if left:
            self.store.delete(f"runs/{RUN}/summary.json")

    def submit(self, steps: bool = False) -> Command:
        """Start the command; `steps`: the same without KFP and without processes of components."""
        self.started += 1
        return Command(self, self.started, steps)

    def read(self, *words: str) -> Ended:
        """A command that reads the store."""

        def call() -> None:
            sys.argv = ["pelican", *words, "--store", self.uri]
            main()

        out, err = self.folder / "read.out", self.folder / "read.err"
        for path in (out, err):
            path.unlink(missing_ok=True)
        status = Forked(call, out, err, self.environment).wait(LIMIT_S)
        return Ended(status, out.read_text(errors="replace"), err.read_text(errors="replace"))

    def finished(self) -> int:
        """How many stages have their manifest now."""
        if self.server is None:
            return sum(1 for _ in Path(self.uri, "runs", RUN).glob(f"loop-*/*/{MANIFEST}"))
        return sum(key.endswith(f"/{MANIFEST}") for key in self.store.keys(f"runs/{RUN}"))

    def processes(self) -> list[psutil.Process]:
        """What of this fault's commands still runs, wherever it hangs in the tree."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                alive = process.status() != psutil.STATUS_ZOMBIE
                if alive and process.environ().get("FAULT") == self.token:
                    found.append(process)
        return found

    def close(self) -> None:
        """End what still runs, and the disk."""
        for process in self.processes():
            with suppress(psutil.Error):
                process.kill()
        if self.disk:
            subprocess.run(["umount", "-l", self.uri], check=False)


def stages_of(reference: Path) -> list[str]:
    """The prefixes of a finished run's stages, in the order in which they ended."""
    found = {}
    for path in (reference / "runs" / RUN).glob(f"loop-*/*/{MANIFEST}"):
        found[path.parent.relative_to(reference).as_posix()] = json.loads(path.read_text())
    return sorted(found, key=lambda prefix: str(found[prefix]["finished"]))


def wait_until(ready: Callable[[], bool], limit_s: float, every_s: float = 0.05) -> bool:
    """Whether it was so within `limit_s`."""
    deadline = time.monotonic() + limit_s
    while not ready():
        if time.monotonic() > deadline:
            return False
        time.sleep(every_s)
    return True


def build_clock(folder: Path) -> Path | None:
    """The preloaded clock, or None without a C compiler."""
    library = folder / "clock.so"
    compiler = shutil.which("cc") or shutil.which("gcc")
    if not library.exists() and compiler:
        subprocess.run(
            [compiler, "-shared", "-fPIC", "-o", str(library), str(HERE / "clock.c")], check=True
        )
    return library if library.exists() else None
