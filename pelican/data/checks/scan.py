"""One pass over a pool: every row and image is looked at, few numbers of each are kept."""

from __future__ import annotations

import hashlib
import io
import json
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from pelican.data.checks.findings import Finding, Findings
from pelican.data.checks.hashing import perceptual_hash
from pelican.data.checks.text import Languages, instructions, markup
from pelican.data.images import FORMATS, decoding, image_bytes, image_digest, refuse_huge
from pelican.data.pool import PoolIndex, read_index
from pelican.data.quarantine import RowError
from pelican.data.tables import open_parquet, shard_paths

MAX_PIXELS = 1_003_520  # the recipes' default; above 8 times that a row is refused
MEGAPIXELS = (0.1, 0.3, 1.0, 4.0)
SECONDS = (8.0, 16.0, 32.0, 64.0)  # 32 and 64: the horizons of the first loop and the later ones
ASPECT = 0.02  # by which a mask's proportions may differ from its image's


@dataclass(frozen=True, slots=True)
class Seen:
    """What is kept of one row."""

    id: str
    shard: str
    row: int  # from 1
    scene: str
    split: str
    question: bytes  # digest of question and media


@dataclass
class Scan:
    """A pool, looked at.

    `first`: digest of an image -> the number of the row that had it first; `again`: of later rows.
    """

    folder: Path
    index: PoolIndex
    rows: list[Seen] = field(default_factory=list)
    first: dict[bytes, int] = field(default_factory=dict)
    again: dict[bytes, list[int]] = field(default_factory=dict)
    hashes: list[bytes] = field(default_factory=list)
    hash_rows: list[int] = field(default_factory=list)
    hash_digests: list[bytes] = field(default_factory=list)
    counts: dict[str, Counter[str]] = field(default_factory=dict)
    images: int = 0

    def having(self, digest: bytes) -> Iterator[int]:
        """The numbers of the rows that have this image."""
        yield self.first[digest]
        yield from self.again.get(digest, ())

    def count(self, name: str, value: str) -> None:
        self.counts.setdefault(name, Counter())[value] += 1


def scan(folder: Path, findings: Findings | None) -> Scan:
    """Look at every row of a pool. `findings` None: only what is needed to compare another with it.

    Raises UserInputError for a pool that can't be opened at all.
    """
    found = Scan(folder, read_index(folder))
    good = {(entry.shard, entry.row) for entry in found.index.entries}
    if findings is not None:
        for bad in found.index.quarantine.rows:
            findings.add(Finding("rows", bad.id, bad.reason, bad.shard, bad.row))
            findings.reasons[bad.code] += 1
    languages = Languages()
    for number, path in enumerate(shard_paths(folder)):
        for row, values in _rows(path):
            if (number, row) in good and values is not None:
                _look(found, values, path.name, row + 1, findings, languages)
    return found


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any] | None]]:
    row = 0
    for batch in open_parquet(path).iter_batches(batch_size=16):
        for i in range(batch.num_rows):
            try:
                (values,) = batch.slice(i, 1).to_pylist()
            except UnicodeDecodeError:
                values = None  # the index has it in quarantine
            yield row, values
            row += 1


def _look(
    found: Scan,
    values: dict[str, Any],
    shard: str,
    row: int,
    findings: Findings | None,
    languages: Languages,
) -> None:
    number = len(found.rows)
    name, split = str(values["id"]), str(values["split"])
    root = found.folder if found.folder.is_dir() else found.folder.parent
    whole = hashlib.blake2b(digest_size=16)
    size: tuple[int, int] | None = None
    new: dict[bytes, bytes | None] = {}
    digests: list[bytes] = []
    try:
        for image in values["images"]:
            data = image_bytes(image, root)
            digest = image_digest(data)
            digests.append(digest)
            whole.update(digest)
            if digest not in found.first and digest not in new:
                with decoding(), Image.open(io.BytesIO(data), formats=FORMATS) as opened:
                    refuse_huge(opened, MAX_PIXELS)
                    size = size or opened.size
                    new[digest] = perceptual_hash(opened)
            size = size or _size(data)
    except RowError as error:
        if findings is not None:
            findings.add(Finding("rows", name, error.reason, shard, row))
            findings.reasons[error.code] += 1
        return
    for digest, code in new.items():
        found.first[digest] = number
        if code is not None:
            found.hashes.append(code)
            found.hash_rows.append(number)
            found.hash_digests.append(digest)
    for digest in set(digests) - new.keys():
        found.again.setdefault(digest, []).append(number)
    found.images += len(digests)
    turns = values["turns"]
    question = str(turns[-1]["text"])
    whole.update(question.casefold().encode())
    found.rows.append(Seen(name, shard, row, str(values["scene"]), split, whole.digest()))
    if findings is None:
        return
    answer = json.loads(values["answer"])
    _count(found, values, answer, languages(question))
    if size is not None:
        found.count("megapixels", _range(size[0] * size[1] / 1e6, MEGAPIXELS))
    if values["media_kind"] == "clip":
        found.count("seconds of a clip", _range(values["times_s"][-1], SECONDS))
    if answer["kind"] == "points" and size is not None:
        height, width = answer["mask"]["size"]
        if abs(width / height * size[1] / size[0] - 1) > ASPECT:
            reason = f"a mask of {width} x {height} on an image of {size[0]} x {size[1]}"
            findings.add(Finding("mask_shape", name, reason, shard, row))
    for turn in turns:
        text = str(turn["text"])
        if reason := markup(text):
            findings.add(Finding("markup", name, f"a turn {reason}", shard, row))
            break
        if turn["role"] != "system" and (reason := instructions(text)):
            findings.add(Finding("instructions", name, f"a turn {reason}", shard, row))
            break


def _size(data: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        return image.size


def _range(value: float, limits: Sequence[float]) -> str:
    at = bisect_left(limits, value)
    return f"up to {limits[at]:g}" if at < len(limits) else f"above {limits[-1]:g}"


def _count(found: Scan, values: dict[str, Any], answer: dict[str, Any], language: str) -> None:
    split = str(values["split"])
    for name in ("family", "dimension", "source", "media_kind"):
        found.count(name, f"{split}: {values[name]}")
    found.count("license", str(values.get("license") or ""))
    found.count("language", language)
    kind = str(answer["kind"])
    found.count("answer", kind)
    if kind == "choice":
        found.count(f"letter of {len(answer['options'])} ({split})", str(answer["answer"]))
    elif kind == "yes_no":
        found.count(f"yes or no ({split})", "yes" if answer["value"] else "no")
    elif kind == "count":
        found.count(f"count ({split})", str(answer["value"]))
