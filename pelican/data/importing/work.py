"""What an unfinished import keeps on disk: chunks, each committed by its JSON file, written last."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
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
    """The folder of chunks, and the rows of the chunk that is being filled."""

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
            self.commit()

    def commit(self) -> None:
        """Write what was added since the last time."""
        if not self._good and not self._bad:
            return
        number = len(self._finished)
        shard = None
        if self._good:
            path = self.folder / f"chunk-{number:05d}.parquet"
            write_shard(path, self._good)
            shard = shard_of(path, len(self._good)).model_dump()
        chunk = {"shard": shard, "quarantined": [asdict(row) for row in self._bad]}
        _write(self.folder / f"chunk-{number:05d}.json", chunk)
        self._finished.append(chunk)
        self._good, self._bad, self._bytes = [], [], 0

    def remove(self) -> None:
        shutil.rmtree(self.folder)


def _write(path: Path, value: object) -> None:
    with replacing(path) as file:
        file.write_text(json.dumps(value))
