"""What it costs to know that a checkpoint's bytes are those that were written, beside loading it.

Shards of safetensors in a folder store, as a stage commits them and the next one reads them. Loading is
safetensors' own: every tensor into memory. The first reading of a machine hashes every byte, later ones
look at what is noted.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from benchmarks.measure import figure, in_turns
from pelican.storage.digests import file_digests
from pelican.storage.manifests import Manifest, commit_manifest, describe_outputs, now
from pelican.storage.store import FolderStore
from pelican.storage.verify import check_local

PREFIX = "runs/bench/loop-1/train-sft-sft"
SHARDS = 4
_ROWS = 1024  # of a tensor; its columns make the size
LARGE_GB = (15, 150)  # for which the seconds are reckoned: 7B and 72B in bfloat16


def write(store: FolderStore, megabytes: int) -> Path:
    """A committed checkpoint of SHARDS files, `megabytes` together."""
    folder = store.local_root(PREFIX) / "checkpoint"
    folder.mkdir()
    columns = max(1, (megabytes << 20) // SHARDS // 4 // 2 // _ROWS)
    for number in range(SHARDS):
        tensors = {f"layer.{number}.{k}": torch.randn(_ROWS, columns).bfloat16() for k in range(4)}
        save_file(tensors, folder / f"model-{number + 1:05d}-of-{SHARDS:05d}.safetensors")
    moment = now()
    manifest = Manifest(
        stage="train-sft",
        run="bench",
        loop=1,
        phase="sft",
        fingerprint="-",
        recipe="-",
        inputs={},
        outputs=describe_outputs(store, PREFIX),
        started=moment,
        finished=moment,
    )
    commit_manifest(store, PREFIX, manifest)
    return folder


def run(megabytes: int, times: int = 3) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["PELICAN_CACHE"] = f"{scratch}/cache"
        store = FolderStore(f"{scratch}/store")
        folder = write(store, megabytes)
        files = sorted(folder.iterdir())
        size = sum(file.stat().st_size for file in files) / 1e9
        where = f"{PREFIX}/checkpoint"

        def load() -> None:
            for file in files:
                for tensor in load_file(file).values():
                    tensor.clone()  # the file is only mapped until its bytes are wanted

        load_s, hash_s, noted_s = in_turns(
            times,
            load,
            lambda: file_digests(files, trust=False),
            lambda: check_local(store, where, folder),
        )
    said = f"{size:.2f} GB in {SHARDS} files, in the page cache"
    figure("first reading against loading", 100 * hash_s / load_s, "%", f"SHA-256 of all; {said}")
    figure("later readings against loading", 100 * noted_s / load_s, "%", "record and notes")
    figure("SHA-256, files side by side", size / hash_s, "GB/s", f"{os.cpu_count()} cores")
    for large in LARGE_GB:
        figure(
            f"first reading of {large} GB, reckoned", large * hash_s / size, "s",
            "from these cores; a disk or share that is slower than that bounds it, as it bounds loading",
        )  # fmt: skip


if __name__ == "__main__":
    run(int(sys.argv[1]))
