"""Rows that can't be used: kept by shard, row, code and reason, and counted; never an exception."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

# What may be wrong with a row, by the code under which it is counted.
CODES: dict[str, str] = {
    "text": "text that is not UTF-8",
    "schema": "a field is missing or of the wrong type or value",
    "answer": "the answer can't be read or lies outside its choices, frame or clip",
    "not_finite": "a number is NaN or infinite",
    "duplicate_id": "the id occurred before; the first row keeps it",
    "clip_step": "a clip that is shorter than a frame step",
    "image_missing": "an image has neither bytes nor a readable file",
    "image_path": "an image's path leaves the data folder",
    "image_unreadable": "an image can't be decoded to its end",
    "image_huge": "an image is too large to be decoded safely",
    "markup": "text with a chat template's tokens, or, imported, control characters",
    # Of an import (docs/data-import.md):
    "json": "not JSON, or a file that is cut off",
    "file": "a file that can't be read to its end",
    "text_long": "a question too long for any prompt",
    "answer_missing": "no answer",
    "mask_size": "a mask of another size than its image",
    "media_missing": "a medium that is not there",
    "media_path": "a path that leaves the media folders",
    "media_mixed": "images and videos in one row",
    "media_tags": "more <image> or <video> tags than media",
    "image_shape": "an image too small or too narrow to show anything",
    "video_unreadable": "a video that can't be opened",
    "video_no_picture": "a video without a picture, such as sound alone",
    "video_truncated": "a video that ends before its window, or can't be decoded on",
    "video_window": "a window that is empty or outside its video",
    "clip_long": "a clip longer than the longest horizon",
}


class RowError(ValueError):
    """One row is unusable; `code` is a key of CODES."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


@dataclass(frozen=True, slots=True)
class QuarantineRow:
    """One row that was left out. `row` counts from 1 within its shard."""

    shard: str
    row: int
    id: str
    code: str
    reason: str

    def __str__(self) -> str:
        return f"{self.shard}, row {self.row} ({self.id or 'no id'}): {self.reason}"


@dataclass
class Quarantine:
    """The rows left out of a pool."""

    rows: list[QuarantineRow] = field(default_factory=list)

    def add(self, shard: str, index: int, id: str, error: RowError) -> None:
        """`index` counts from 0, as readers do; people count rows from 1."""
        self.rows.append(QuarantineRow(shard, index + 1, id, error.code, error.reason))

    def extend(self, rows: Iterable[QuarantineRow]) -> None:
        self.rows.extend(rows)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def counts(self) -> dict[str, int]:
        """Rows by code, sorted by code."""
        return dict(sorted(Counter(row.code for row in self.rows).items()))

    def notes(self, limit: int = 200) -> list[dict[str, Any]]:
        """The first `limit` rows for a manifest."""
        return [asdict(row) for row in self.rows[:limit]]
