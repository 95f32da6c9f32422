"""A checkpoint to a bucket and back, against the same client's bare parallel PUT and GET.

Files as a sharded checkpoint has them, on a MinIO of this machine, whose server has a share of the
same cores. The store also takes digests, checks them on the way back, and writes under temporary names.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.measure import at_least, at_most, child, figure, in_turns, peak_mb
from pelican.storage.manifests import file_digest
from pelican.storage.mirror import PARALLEL
from pelican.storage.s3 import S3Store
from pelican.storage.transfer import PART, RANGES

FILES = 4
BUCKET = "bench"
ROUNDS = 3
_BLOCK = 1 << 20


@contextmanager
def server(folder: Path) -> Iterator[dict[str, str]]:
    """What a client of a MinIO of this machine needs in its environment."""
    program = shutil.which("minio")
    if program is None:
        sys.exit("there is no `minio` on the PATH: this section needs a real S3 server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    user, password = "bench", secrets.token_hex(16)
    process = subprocess.Popen(
        [program, "server", str(folder), "--address", address, "--quiet"],
        env={
            "HOME": str(folder),
            "MINIO_ROOT_USER": user,
            "MINIO_ROOT_PASSWORD": password,
            "MINIO_BROWSER": "off",
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(f"http://{address}/minio/health/ready", timeout=2)
                break
            except (urllib.error.URLError, OSError):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
        yield {
            "S3_ENDPOINT_URL": f"http://{address}",
            "AWS_ACCESS_KEY_ID": user,
            "AWS_SECRET_ACCESS_KEY": password,
        }
    finally:
        process.kill()
        process.wait()


def write(folder: Path, megabytes: int) -> None:
    """FILES files of random bytes, `megabytes` together."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(FILES):
        with (folder / f"model-{number + 1:05d}-of-{FILES:05d}.safetensors").open("wb") as file:
            for _ in range(megabytes // FILES):
                file.write(os.urandom(_BLOCK))


def put_bare(store: S3Store, files: list[Path]) -> None:
    def put(path: Path) -> None:
        name = f"bare/{path.name}"
        store.client.fput_object(BUCKET, name, str(path), part_size=PART, num_parallel_uploads=2)

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


def compare(megabytes: int, folder: Path) -> None:
    cache, bare = folder / "cache", folder / "bare"
    store = S3Store(f"s3://{BUCKET}/runs", cache=cache)
    store.client.make_bucket(BUCKET)
    prefix = "checkpoint"
    root = store.local_root(prefix)
    write(root, megabytes)
    files = sorted(root.iterdir())

    def upload() -> None:
        S3Store(store.uri, cache=cache).upload(prefix)  # another store: nothing is known as sent

    def download() -> None:
        other = folder / "other"
        found = S3Store(store.uri, cache=other).local(prefix)
        assert sorted(path.name for path in found.iterdir()) == [path.name for path in files]
        shutil.rmtree(other)

    def fetch() -> None:
        get_bare(store, files, bare)
        shutil.rmtree(bare)

    put, up, get, down = in_turns(ROUNDS, lambda: put_bare(store, files), upload, fetch, download)
    (hashed,) = in_turns(1, lambda: [file_digest(path) for path in files])
    size = f"{megabytes} MB in {FILES} files"
    share = f"SHA-256 alone, one after the other, takes {hashed:.1f} s"
    at_least("upload against bare multipart PUT", put / up, "x", 0.9, f"{size}; {share}")
    at_least("download against bare ranged GET", get / down, "x", 0.9, f"{size}; digests checked")
    for name, seconds in (("PUT", put), ("upload", up), ("GET", get), ("download", down)):
        figure(name, megabytes / seconds, "MB/s", "of this machine, server on the same cores")
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
    with tempfile.TemporaryDirectory() as name, server(Path(name) / "minio") as environment:
        os.environ.update(environment)
        compare(int(sys.argv[1]), Path(name))


if __name__ == "__main__":
    main()
