"""What an unfinished import keeps on disk: chunks, each committed by its JSON file, written last."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pelican.data.importing.convert import Bad, Good
from pelican.data.importing.shards import MAX_BYTES, MAX_ROWS, write_shard
from pelican.data.versions import Shard, shard_of
from pelican.files import replacing

PLAN = "plan.json"
MAX_BAD = 5000  # quarantined rows of a chunk


class Work:
    """The folder of chunks, and the rows of the chunk that is being filled. To be used in `with`."""

    def __init__(self, folder: Path, plan: dict[str, Any]) -> None:
        """Chunks of the same plan are kept; those of another command or source are dropped."""
        self.folder = folder
        plan = json.loads(json.dumps(plan, default=str))
        try:
            same = json.loads((folder / PLAN).read_text()) == plan
        except (OSError, ValueError):
            same = False
        if not same:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            _write(folder / PLAN, plan)
        self._finished = [
            json.loads(path.read_text()) for path in sorted(folder.glob("chunk-*.json"))
        ]
        self._good: list[Good] = []
        self._bad: list[Bad] = []
        self._bytes = 0
        # Rows are converted on while a chunk is written; one at a time, which bounds the memory.
        self._writer = ThreadPoolExecutor(1)
        self._writing: Future[dict[str, Any]] | None = None

    def __enter__(self) -> Work:
        return self

    def __exit__(self, *_: object) -> None:
        """Without waiting for more than the chunk that is being written."""
        self._writer.shutdown()

    def shards(self) -> list[tuple[Path, Shard]]:
        return [
            (self.folder / chunk["shard"]["name"], Shard.model_validate(chunk["shard"]))
            for chunk in self._finished
            if chunk["shard"]
        ]

    def quarantined(self) -> Iterator[Bad]:
        for chunk in self._finished:
            for row in chunk["quarantined"]:
                yield Bad(**row)

    def add(self, row: Good | Bad) -> None:
        """Commits the chunk when it is full."""
        if isinstance(row, Good):
            self._good.append(row)
            self._bytes += sum(len(image) for image in row.sample.images)
        else:
            self._bad.append(row)
        full = len(self._good) >= MAX_ROWS or self._bytes >= MAX_BYTES
        if full or len(self._bad) >= MAX_BAD:
            self._start()

    def commit(self) -> None:
        """Write what was added since the last time; returns when it is on disk."""
        self._start()
        self._wait()

    def _start(self) -> None:
        self._wait()
        if self._good or self._bad:
            number = len(self._finished)
            self._writing = self._writer.submit(self._save, number, self._good, self._bad)
            self._good, self._bad, self._bytes = [], [], 0

    def _wait(self) -> None:
        if self._writing is not None:
            self._finished.append(self._writing.result())
            self._writing = None

    def _save(self, number: int, good: list[Good], bad: list[Bad]) -> dict[str, Any]:
        shard = None
        if good:
            path = self.folder / f"chunk-{number:05d}.parquet"
            write_shard(path, good)
            shard = shard_of(path, len(good)).model_dump()
        chunk = {"shard": shard, "quarantined": [asdict(row) for row in bad]}
        _write(self.folder / f"chunk-{number:05d}.json", chunk)
        return chunk

    def remove(self) -> None:
        shutil.rmtree(self.folder)


def _write(path: Path, value: object) -> None:
    with replacing(path) as file:
        file.write_text(json.dumps(value))
