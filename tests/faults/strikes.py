"""The kinds of faults: what each does to a run, what undoes it, and with which status a struck command may end."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from pelican.storage.s3 import SHA256, S3Store
from tests.faults.site import BUCKET, Command, Site

Undo = Callable[[], None]
STEP_S = 3600
JUMPS = (-30 * 24 * STEP_S, -2 * STEP_S, -90, 90, 2 * STEP_S, 30 * 24 * STEP_S)


@dataclass
class Struck:
    """A fault that happens: `where` and `others` are filled by the strike."""

    site: Site
    rng: random.Random
    command: Command | None  # that runs; None: nothing runs
    where: str = ""
    others: list[Command] = field(default_factory=list)


def nothing() -> None:
    """Of the environment nothing is to be undone."""


# Processes.


def _send(number: int) -> Callable[[Struck], Undo]:
    """A signal to one process of the tree, to all at once, or, as Ctrl-C, to the command's group."""

    def strike(struck: Struck) -> Undo:
        tree = struck.command.tree()
        victims = struck.rng.choice([tree[:1], tree[:1], tree, *([p] for p in tree[1:])])
        struck.where = "all" if len(victims) > 1 else " ".join(map(_name, victims))
        for victim in victims:
            with suppress(psutil.NoSuchProcess):
                victim.send_signal(number)
        if number == signal.SIGSTOP:
            time.sleep(struck.rng.uniform(0.5, 12))
            for victim in victims:
                with suppress(psutil.NoSuchProcess):
                    victim.send_signal(signal.SIGCONT)
        return nothing

    return strike


def _name(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        words = process.cmdline()
        known = (
            "pipelines.run",
            "kfp.dsl.executor_main",
            "submit",
            "stage",
            "torch.distributed.run",
        )
        return next((word for word in known if word in words), " ".join(words[:3])[:60])
    return "ended"


def submit_too(struck: Struck) -> Undo:
    """A second submission of the same run, and perhaps the end of one of the two."""
    second = struck.site.submit()
    struck.others.append(second)
    time.sleep(struck.rng.uniform(0, 6))
    struck.where = struck.rng.choice(["none", "none", "first", "second"])
    killed = {"first": struck.command, "second": second}.get(struck.where)
    if killed is not None and killed.running:
        killed.process.kill()
    return nothing


def jump(struck: Struck) -> Undo:
    """Another time of day from one moment to the next."""
    seconds = struck.rng.choice(JUMPS)
    struck.where = f"{seconds:+d} s"
    file = Path(struck.site.extra["FAULT_CLOCK"])
    file.write_text(str(seconds))

    def undo() -> None:
        file.write_text("0")

    return undo


# Files.


def classes(keys: Collection[str]) -> dict[str, list[str]]:
    """The kinds of files that a store has, each with its keys."""
    found: dict[str, list[str]] = defaultdict(list)
    for key in keys:
        found[_class(key.split("/"))].append(key)
    return found


def _class(parts: list[str]) -> str:
    match parts:
        case ["runs", _, name]:
            return name
        case ["runs", _, "logs", *_]:
            return "logs"
        case ["runs", _, _, _, "work", *_]:
            return "work"
        case ["runs", _, _, _, "checkpoint", *_]:
            return "checkpoint"
        case ["runs", _, _, _, name]:
            return f"stage's {name}"
        case [top, *_, name]:
            return f"{top} {name}" if top == "models" else top
    return "other"


def _choose(struck: Struck) -> str | None:
    keys = [key for key in struck.site.store.keys("") if not key.endswith(".lock")]
    found = classes(keys)
    if not found:
        return None
    kind = struck.rng.choice(sorted(found))
    return struck.rng.choice(sorted(found[kind]))


def _harm(change: Callable[[bytes, random.Random], bytes], *, unseen: bool = False) -> Callable:
    """Other bytes in one file. `unseen`: its times are put back; in a bucket, on the server's disk."""

    def strike(struck: Struck) -> Undo:
        key = _choose(struck)
        struck.where = key or "nothing"
        if key is None:
            return nothing
        with suppress(FileNotFoundError, KeyError):  # the run deleted it meanwhile
            if isinstance(store := struck.site.store, S3Store) and not unseen:
                data = change(
                    store.client.get_object(BUCKET, _name_of(store, key)).data, struck.rng
                )
                _overwrite(store, key, data)
                return nothing
            path = Path(struck.site.uri, key)
            if isinstance(store, S3Store):
                folder = struck.site.server.folder / BUCKET / _name_of(store, key)
                path = max(folder.rglob("*"), key=lambda file: file.stat().st_size)
            state = path.stat()
            path.write_bytes(change(path.read_bytes(), struck.rng))
            if unseen:
                os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
        return nothing

    return strike


def _name_of(store: S3Store, key: str) -> str:
    return f"{store.prefix}/{key}".strip("/")


def _overwrite(store: S3Store, key: str, data: bytes) -> None:
    """Other bytes below the digest that their writer noted."""
    import io

    name = _name_of(store, key)
    noted = store.client.stat_object(BUCKET, name).metadata.get(SHA256, "")
    store.client.put_object(BUCKET, name, io.BytesIO(data), len(data), metadata={SHA256: noted})


def _flip(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    if changed:
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _flip_end(data: bytes, rng: random.Random) -> bytes:
    """In the last quarter: there MinIO keeps the bytes of a small object, behind what it says of it."""
    keep = len(data) * 3 // 4
    return data[:keep] + _flip(data[keep:], rng)


def _cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.choice([0, rng.randrange(len(data) + 1), max(0, len(data) - 1)])]


def delete_folder(struck: Struck) -> Undo:
    """A folder of the store with all below it: a stage's, its work, the logs, the run."""
    folders = {key.rpartition("/")[0] for key in struck.site.store.keys("")}
    folders |= {folder.rpartition("/")[0] for folder in folders}
    chosen = struck.rng.choice(sorted(folders - {""})) if folders - {""} else None
    struck.where = chosen or "nothing"
    if chosen is not None and struck.site.server is None:
        shutil.rmtree(Path(struck.site.uri, chosen), ignore_errors=True)
    elif chosen is not None:
        struck.site.store.delete(chosen)
    return nothing


# The disk and the store.


def fill_disk(struck: Struck) -> Undo:
    """Not a byte is free, or some pages are."""
    folder = Path(struck.site.uri)
    spare = struck.rng.choice([0, 0, 4096, 65536, 1 << 20])
    struck.where = f"{spare} bytes free"
    ballast = folder / "ballast"
    with ballast.open("wb") as file, suppress(OSError):
        os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(folder).free - spare)
    return ballast.unlink


def forbid_writing(struck: Struck) -> Undo:
    def mount(how: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{how}", struck.site.uri], check=True)

    struck.where = "the disk"
    mount("ro")
    return lambda: mount("rw")


def kill_server(struck: Struck) -> Undo:
    """For some seconds that a patient client waits out, or until the command has ended."""
    server = struck.site.server
    server.stop()
    seconds = struck.rng.choice([1.0, 4.0, None])
    struck.where = f"for {seconds} s" if seconds else "until the command ended"
    if seconds is None:
        return server.start
    time.sleep(seconds)
    server.start()
    return nothing


def pause_server(struck: Struck) -> Undo:
    process = struck.site.server.process
    process.send_signal(signal.SIGSTOP)
    seconds = struck.rng.choice([1.0, 6.0, 20.0])
    struck.where = f"for {seconds} s"
    time.sleep(seconds)
    process.send_signal(signal.SIGCONT)
    return nothing


@dataclass(frozen=True)
class Kind:
    """`statuses`: of the struck command. `when`: a command runs (live), is about to (start), or none does (rest)."""

    strike: Callable[[Struck], Undo]
    statuses: frozenset[int]
    when: tuple[str, ...] = ("live",)
    places: tuple[str, ...] = ("folder", "bucket")
    steps: bool = True  # also while the tasks are called in one process


AGAIN = frozenset({0, 75})  # borne, or: the same command continues
MENDED = frozenset({0, 2, 75})  # or a person is told what to do
REST = ("rest", "rest", "rest", "live")
KINDS: dict[str, Kind] = {
    "kill": Kind(_send(signal.SIGKILL), AGAIN | {-9}),
    "term": Kind(_send(signal.SIGTERM), AGAIN | {130, 143, -15}),
    "int": Kind(_send(signal.SIGINT), AGAIN | {130, -2}, steps=False),
    "stop": Kind(_send(signal.SIGSTOP), AGAIN),
    "both": Kind(submit_too, AGAIN | {2, -9}, steps=False),
    "clock": Kind(jump, MENDED, steps=False),
    "deleted": Kind(delete_folder, MENDED, REST),
    "flip": Kind(_harm(_flip), MENDED, REST),
    "flip-unseen": Kind(_harm(_flip, unseen=True), MENDED, REST, ("folder",)),
    "flip-server": Kind(_harm(_flip_end, unseen=True), MENDED, REST, ("bucket",)),
    "cut": Kind(_harm(_cut), MENDED, REST),
    "disk-full": Kind(fill_disk, AGAIN, places=("disk",)),
    "read-only": Kind(forbid_writing, frozenset({2}), ("start",), ("disk",)),
    "server-killed": Kind(kill_server, AGAIN, places=("bucket",)),
    "server-paused": Kind(pause_server, AGAIN, places=("bucket",)),
}
