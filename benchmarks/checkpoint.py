"""A checkpoint to a bucket and back, against the same client's bare parallel PUT and GET.

Files as a sharded checkpoint has them, on a MinIO of this machine, whose server has a share of the same
cores. Both sides send and fetch as many files, parts and ranges at a time, and as large. The store also
takes digests, checks them on the way back, and writes under temporary names.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.measure import at_least, at_most, busy_s, child, figure, peak_mb
from pelican.storage.digests import file_digest
from pelican.storage.s3 import IN_FLIGHT, PARALLEL, PART, RANGES, S3Store
from tests.endpoints import free_port
from tests.minio_server import ABSENT, PROGRAM, Server

FILES = 4
BUCKET = "bench"
ROUNDS = 2
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Cost:
    """Seconds of one work: by the clock, and of the processor for client, server and all others."""

    wall: float
    client: float
    server: float
    others: float

    @property
    def cpu(self) -> float:
        return self.client + self.server


def cost(server: Server, work: Callable[[], None]) -> Cost:
    def now() -> tuple[float, float, float, float]:
        times = os.times()
        return time.perf_counter(), times.user + times.system, _processor_s(server), busy_s()

    before = now()
    work()
    wall, client, served, busy = (b - a for a, b in zip(before, now(), strict=True))
    return Cost(wall, client, served, max(0.0, busy - client - served))


def _processor_s(server: Server) -> float:
    assert server.process is not None
    fields = Path(f"/proc/{server.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def write(folder: Path, megabytes: int) -> None:
    """FILES files of random bytes, `megabytes` together."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(FILES):
        with (folder / f"model-{number + 1:05d}-of-{FILES:05d}.safetensors").open("wb") as file:
            for _ in range(megabytes // FILES):
                file.write(os.urandom(_BLOCK))


def warm(folder: Path, megabytes: int) -> None:
    """Write and delete `megabytes` before measuring.

    A virtual machine that returned memory to its host must first get it back, and that cost would
    fall on whichever side is measured first.
    """
    block = bytes(_BLOCK)
    with (folder / "warm").open("wb") as file:
        for _ in range(megabytes):
            file.write(block)
    (folder / "warm").unlink()


def put_bare(store: S3Store, files: list[Path]) -> None:
    def put(path: Path) -> None:
        name, parallel = f"bare/{path.name}", IN_FLIGHT // PARALLEL
        store.client.fput_object(
            BUCKET, name, str(path), part_size=PART, num_parallel_uploads=parallel
        )

    with ThreadPoolExecutor(PARALLEL) as threads:
        list(threads.map(put, files))


def get_bare(store: S3Store, files: list[Path], target: Path) -> None:
    """Ranges of every file in parallel, straight to their places."""

    def get(path: Path) -> None:
        size = path.stat().st_size
        descriptor = os.open(target / path.name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.ftruncate(descriptor, size)

        def fetch(start: int) -> None:
            length = min(PART, size - start)
            response = store.client.get_object(BUCKET, f"bare/{path.name}", start, length)
            at = start
            for block in response.stream(_BLOCK):
                at += os.pwrite(descriptor, block, at)
            response.close()
            response.release_conn()

        try:
            with ThreadPoolExecutor(RANGES) as threads:
                list(threads.map(fetch, range(0, size, PART)))
        finally:
            os.close(descriptor)

    target.mkdir(exist_ok=True)
    with ThreadPoolExecutor(PARALLEL) as threads:
        list(threads.map(get, files))


def compare(server: Server, megabytes: int, folder: Path) -> None:
    cache, bare, other = folder / "cache", folder / "bare", folder / "other"
    store = S3Store(f"s3://{BUCKET}/runs", cache=cache)
    store.client.make_bucket(BUCKET)
    prefix = "checkpoint"
    root = store.local_root(prefix)
    write(root, megabytes)
    files = sorted(root.iterdir())
    names = [path.name for path in files]

    def download() -> None:
        found = S3Store(store.uri, cache=other).local(prefix)
        assert sorted(path.name for path in found.iterdir()) == names

    works: dict[str, Callable[[], None]] = {
        "PUT": lambda: put_bare(store, files),
        # Another store: nothing is known as sent.
        "upload": lambda: S3Store(store.uri, cache=cache).upload(prefix),
        "GET": lambda: get_bare(store, files, bare),
        "download": download,
        "SHA-256": lambda: [file_digest(path) for path in files].clear(),
    }
    sends = {"PUT": "bare/", "upload": f"runs/{prefix}/"}  # below which prefix of the bucket
    costs: dict[str, list[Cost]] = {name: [] for name in works}
    for _ in range(ROUNDS):  # in turns: what else the machine does falls on all
        for name, work in works.items():
            if name != "SHA-256":
                warm(folder, megabytes)
            if name in sends:  # what is there already would not be sent again
                for found in list(store.client.list_objects(BUCKET, sends[name], recursive=True)):
                    store.client.remove_object(BUCKET, str(found.object_name))
            costs[name].append(cost(server, work))
            for made in (bare, other):
                shutil.rmtree(made, ignore_errors=True)
    least = {name: min(found, key=lambda c: c.wall) for name, found in costs.items()}
    work_s = {name: min(c.cpu for c in found) for name, found in costs.items()}

    for ours, theirs, title in (
        ("upload", "PUT", "upload against bare multipart PUT"),
        ("download", "GET", "download against bare ranged GET"),
    ):
        best = least[ours]
        share = (os.cpu_count() or 1) * best.wall
        at_least(
            title, least[theirs].wall / best.wall, "x", 0.9,
            f"{megabytes} MB in {FILES} files; of the cores' time meanwhile"
            f" {best.client / share:.0%} client, {best.server / share:.0%} server,"
            f" {best.others / share:.0%} other programs",
        )  # fmt: skip
        figure(
            "the same in processor time", work_s[theirs] / work_s[ours], "x",
            f"client and server: {work_s[theirs]:.2f} s bare, {work_s[ours]:.2f} s with digests",
        )  # fmt: skip
        figure(
            "most that a digest leaves", work_s[theirs] / (work_s[theirs] + work_s["SHA-256"]), "x",
            f"where processors bound it: SHA-256 alone takes {work_s['SHA-256']:.2f} s of them",
        )  # fmt: skip
    for name in ("PUT", "upload", "GET", "download"):
        figure(
            name, megabytes / least[name].wall, "MB/s", "of this machine, server on the same cores"
        )
    for path in (root, *(folder / "minio" / BUCKET / name for name in ("bare", "runs"))):
        shutil.rmtree(path)  # several times as much would lie on the disk
    small, large = (
        child("benchmarks.checkpoint", "peak", str(mb), str(folder / f"peak-{mb}"))["mb"]
        for mb in (megabytes // 4, megabytes)
    )
    at_most(
        "memory of upload and download", large / small, "x", 1.1,
        f"{large:.0f} MB resident for {megabytes} MB, {small:.0f} MB for a quarter",
    )  # fmt: skip


def peak(megabytes: int, folder: Path) -> dict[str, Any]:
    """Resident size of a process that brings so much up and down again."""
    store = S3Store(f"s3://{BUCKET}/peak-{megabytes}", cache=folder / "cache")
    write(store.local_root("checkpoint"), megabytes)
    store.upload("checkpoint")
    S3Store(store.uri, cache=folder / "other").local("checkpoint")
    shutil.rmtree(folder)
    return {"mb": peak_mb()}


def main() -> None:
    if sys.argv[1] == "peak":
        print(json.dumps(peak(int(sys.argv[2]), Path(sys.argv[3]))))
        return
    if shutil.which(PROGRAM) is None:
        sys.exit(ABSENT)
    with tempfile.TemporaryDirectory() as name:
        server = Server(Path(name) / "minio", free_port())
        server.start()
        os.environ.update(server.environment())
        try:
            compare(server, int(sys.argv[1]), Path(name))
        finally:
            server.stop()


if __name__ == "__main__":
    main()
