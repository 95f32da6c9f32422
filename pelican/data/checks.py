"""Checks of a pool (`pelican data check`): faulty rows, duplicates, leaks; and `diff` of two pools."""

from __future__ import annotations

import hashlib
import io
import math
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pelican.base.parse import parse_json
from pelican.data.images import (
    FORMATS,
    as_seen,
    decoding,
    image_bytes,
    image_digest,
    is_plain,
    refuse_huge,
    seen_size,
    upright_size,
)
from pelican.data.importing.shards import read_columns
from pelican.data.pool import PoolIndex, read_index
from pelican.data.tables import SAMPLES, RowError, open_parquet, shard_paths
from pelican.data.versions import changed_since_import, version_name

# Findings: one for each fault of a row, or of the pool as a whole.

KEPT = 500  # findings of one check that keep their row; all are counted

# What each check looks for; an error makes its rows unusable or a result untrue.
CHECKS: dict[str, tuple[Literal["error", "warning"], str]] = {
    "rows": ("error", "schema, media that open, answers inside their choices, frame and clip"),
    "mask_shape": ("error", "a mask whose proportions are not those of its image"),
    "leak": ("error", "a scene or an image that is in two splits, or in an evaluation set"),
    "near_leak": ("warning", "an image that is nearly the same in another split or evaluation set"),
    "duplicate": ("warning", "the same question about the same media"),
    "near_duplicate": ("warning", "nearly the same image in two scenes of one split"),
    "balance": ("warning", "an answer or a family that is far too common"),
    "language": ("warning", "a question in another language than most"),
    "license": ("warning", "no licence"),
    "markup": ("error", "control or direction characters"),
    "instructions": ("warning", "text with markup, an address, or words addressed to the model"),
    "changed": ("error", "a file that is not what version.json says"),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One fault. `other` is the id of the row that it collides with, such as the first of two copies.

    `row` counts from 1 within its shard. Where the fault is the whole pool's, `id` is "" and `row` 0.
    """

    check: str
    id: str
    reason: str
    shard: str = ""
    row: int = 0
    other: str = ""


@dataclass
class Findings:
    """All findings of a pool. `faulty`: rows with an error, by shard and row."""

    kept: list[Finding] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    faulty: set[tuple[str, int]] = field(default_factory=set)
    pool_errors: int = 0

    def add(self, finding: Finding) -> None:
        self.counts[finding.check] += 1
        if self.counts[finding.check] <= KEPT:
            self.kept.append(finding)
        if CHECKS[finding.check][0] == "error":
            if finding.row > 0:
                self.faulty.add((finding.shard, finding.row))
            else:
                self.pool_errors += 1

    def of(self, check: str) -> list[Finding]:
        return [finding for finding in self.kept if finding.check == check]

    def as_json(self) -> list[dict[str, Any]]:
        return [asdict(finding) for finding in self.kept]


# `check`: copies, leaks, balance, languages, licences and changed files, found in a scan.

MIN_BALANCE = 40  # answers below which nothing is said about their balance
MAX_SHARE = 0.85  # of yes among yes and no, of one count among counts, of one family


@dataclass(frozen=True)
class Checked:
    """The outcome of a check. `bad_share` is the share of rows with an error, 0 to 1."""

    scan: Scan
    findings: Findings
    rows: int
    version: str | None

    @property
    def bad_share(self) -> float:
        return len(self.findings.faulty) / max(1, self.rows)

    def passes(self, threshold: float) -> bool:
        """Whether at most the share `threshold` of rows is faulty, and the pool as a whole has no fault."""
        return self.bad_share <= threshold and not self.findings.pool_errors


def check(folder: Path, against: Sequence[Path], near: int) -> Checked:
    """Every check of CHECKS. `against`: pools that may share no scene and no image with it."""
    findings = Findings()
    found = scan(folder, findings)
    _duplicates(found, findings)
    _leaks_between_splits(found, findings)
    _near(found, findings, near)
    for other in against:
        _leaks_against(found, scan(other, None), findings, near)
    _balance(found, findings)
    _languages(found, findings)
    _licenses(found, findings)
    for fault in changed_since_import(folder):
        findings.add(Finding("changed", "", fault))
    rows = len(found.index.entries) + len(found.index.quarantine)
    return Checked(found, findings, rows, version_name(folder))


def _at(check: str, row: ScannedRow, reason: str, other: str = "") -> Finding:
    return Finding(check, row.id, reason, row.shard, row.row, other)


def _duplicates(found: Scan, findings: Findings) -> None:
    first: dict[bytes, ScannedRow] = {}
    for row in found.rows:
        before = first.setdefault(row.question, row)
        if before is not row:
            reason = f"the same question about the same media as {before.id}"
            findings.add(_at("duplicate", row, reason, before.id))


def _leaks_between_splits(found: Scan, findings: Findings) -> None:
    scenes: dict[str, ScannedRow] = {}
    for row in found.rows:
        before = scenes.setdefault(row.scene, row)
        if before.split != row.split:
            reason = f"scene {row.scene!r} is in split {before.split} and in {row.split}"
            findings.add(_at("leak", row, reason, before.id))
    reported: set[int] = set()
    for digest, later in found.again.items():
        before = found.rows[found.first[digest]]
        for number in later:
            row = found.rows[number]
            if row.split != before.split and number not in reported:
                reported.add(number)
                reason = f"one of its images is in split {row.split} and, in {before.id}, in split {before.split}"
                findings.add(_at("leak", row, reason, before.id))


def _near(found: Scan, findings: Findings, limit: int) -> None:
    """Nearly the same image in two scenes: across splits a leak, within one a duplicate."""
    reported: set[tuple[str, str]] = set()
    for i, j, bits in near_pairs(stacked(found.hashes), limit, _scenes(found)):
        a, b = found.rows[found.hash_rows[i]], found.rows[found.hash_rows[j]]
        if (a.scene, b.scene) not in reported:
            reported.add((a.scene, b.scene))
            check = "near_duplicate" if a.split == b.split else "near_leak"
            reason = (
                f"an image is nearly one of {a.id}: their hashes differ in {bits} of {BITS} bits"
            )
            findings.add(_at(check, b, reason, a.id))


def _scenes(*scans: Scan) -> NDArray[np.int64]:
    """The number of the scene of each hash."""
    numbers: dict[str, int] = {}
    scenes = [scan.rows[row].scene for scan in scans for row in scan.hash_rows]
    return np.array([numbers.setdefault(s, len(numbers)) for s in scenes], dtype=np.int64)


def _leaks_against(found: Scan, other: Scan, findings: Findings, limit: int) -> None:
    name = other.folder.name
    scenes = {row.scene: row for row in other.rows}
    for row in found.rows:
        if row.scene in scenes:
            reason = f"scene {row.scene!r} is in the evaluation set {name}"
            findings.add(_at("leak", row, reason, scenes[row.scene].id))
    leaked: dict[int, ScannedRow] = {}
    for digest in found.first:
        if digest in other.first:
            for number in found.having(digest):
                leaked.setdefault(number, other.rows[other.first[digest]])
    for number, held in sorted(leaked.items(), key=lambda item: item[0]):
        reason = f"one of its images is in the evaluation set {name}"
        findings.add(_at("leak", found.rows[number], reason, held.id))
    ours = len(found.hashes)
    sides = np.repeat(np.array([0, 1], dtype=np.int64), [ours, len(other.hashes)])
    reported: set[tuple[str, str]] = set()
    for i, j, bits in near_pairs(stacked([*found.hashes, *other.hashes]), limit, sides):
        if found.hash_digests[i] == other.hash_digests[j - ours]:
            continue
        row, held = found.rows[found.hash_rows[i]], other.rows[other.hash_rows[j - ours]]
        if (row.scene, held.scene) not in reported:
            reported.add((row.scene, held.scene))
            reason = f"an image is nearly one of evaluation set {name}: {bits} of {BITS} hash bits differ"
            findings.add(_at("near_leak", row, reason, held.id))


def _balance(found: Scan, findings: Findings) -> None:
    for name, counts in found.counts.items():
        total = counts.total()
        if total < MIN_BALANCE:
            continue
        value, most = counts.most_common(1)[0]
        if name.startswith("letter of "):
            options = int(name.split()[2])
            share = 1 / options
            # Four standard deviations of a fair draw: chance alone does that to one pool in 10,000.
            limit = share + max(0.1, 4 * math.sqrt(share * (1 - share) / total))
        elif name.startswith(("yes or no", "count (")) or name == "family":
            limit = MAX_SHARE
        else:
            continue
        if most / total > limit:
            findings.add(
                Finding("balance", "", f"{name}: {value!r} is {most / total:.0%} of {total}")
            )


def _languages(found: Scan, findings: Findings) -> None:
    counts = Counter({k: n for k, n in found.counts.get("language", Counter()).items() if k})
    for code, number in counts.most_common()[1:]:
        findings.add(
            Finding("language", "", f"{number} of {counts.total()} questions look like {code!r}")
        )


def _licenses(found: Scan, findings: Findings) -> None:
    missing = found.counts.get("license", Counter())[""]
    if missing:
        findings.add(Finding("license", "", f"{missing} rows name no licence"))


# `scan`: one pass over a pool, which looks at every row and image and keeps a few numbers of each.

MAX_PIXELS = 1_003_520  # the recipes' default; above 8 times that a row is refused
MEGAPIXELS = (0.1, 0.3, 1.0, 4.0)
SECONDS = (8.0, 16.0, 32.0, 64.0)  # 32 and 64: the horizons of the first loop and the later ones
ASPECT = 0.02  # by which a mask's proportions may differ from its image's


@dataclass(frozen=True, slots=True)
class ScannedRow:
    """What a scan keeps of one row: where it is, and digests instead of its content."""

    id: str
    shard: str
    row: int  # from 1
    scene: str
    split: str
    question: bytes  # digest of question and media


@dataclass
class Scan:
    """What one pass over a pool has found.

    `first`: digest of an image -> the number of the first row that has it. `again`: the numbers of
    the later rows that have it, too.
    """

    folder: Path
    index: PoolIndex
    rows: list[ScannedRow] = field(default_factory=list)
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
                    size = size or upright_size(opened)
                    new[digest] = perceptual_hash(opened)
            size = size or seen_size(data)
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
    found.rows.append(ScannedRow(name, shard, row, str(values["scene"]), split, whole.digest()))
    if findings is None:
        return
    answer = parse_json(values["answer"])
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


# Perceptual hashes: images that are nearly the same, without comparing all with all.

SIDE = 16
BITS = SIDE * SIDE
BANDS = 16  # of 16 bits: two hashes that differ in fewer bits than bands share a band whole
MAX_BUCKET = 200  # hashes in one band's bucket that are compared with each other
MAX_PAIRS = 1_000_000  # enough to judge a pool by; more would fill the memory
FLAT = 2.0  # standard deviation of grey below which an image shows nothing


def perceptual_hash(image: Image.Image) -> bytes | None:
    """Difference hash: 256 bits, 1 where a pixel of the 17 x 16 grey image is darker than the next.

    None for an image without structure: all such are alike. Reads the image to its end and raises
    what Pillow raises.
    """
    image.draft("L", (SIDE * 4, SIDE * 4))  # a JPEG is decoded small, at a fraction of the cost
    if not is_plain(image):
        image = as_seen(image)
    grey = np.asarray(
        image.convert("L").resize((SIDE + 1, SIDE), Image.Resampling.BOX), dtype=np.int16
    )
    if grey.std() < FLAT:
        return None
    return np.packbits(grey[:, 1:] > grey[:, :-1]).tobytes()


def distances(hashes: NDArray[np.uint8], one: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Bits in which each of `hashes` [n, 32] differs from `one` [32]."""
    apart: NDArray[np.int64] = np.bitwise_count(hashes ^ one).sum(axis=1, dtype=np.int64)
    return apart


def near_pairs(
    hashes: NDArray[np.uint8], limit: int, groups: NDArray[np.int64]
) -> Iterator[tuple[int, int, int]]:
    """(i, j, bits) of the pairs i < j of two groups that differ in at most `limit` (< BANDS) bits.

    Args:
        hashes: Shape [n, 32], uint8: one hash a row.
        limit: Bits that the two hashes of a pair may differ in.
        groups: Shape [n]: the scene of each hash. Frames of one scene are always near each other, so
            their pairs are left out.

    Every pair is found, but for those of buckets above MAX_BUCKET (thousands of pictures of one
    table share bands): there each hash is compared with its MAX_BUCKET next neighbours alone.

    Raises:
        ValueError: `limit` is not below BANDS.
    """
    if limit >= BANDS:
        raise ValueError(f"near duplicates may differ in fewer than {BANDS} bits, not {limit}")
    bands = np.ascontiguousarray(hashes).view(np.uint16)
    found: set[tuple[int, int]] = set()
    for band in range(BANDS):
        order = np.argsort(bands[:, band], kind="stable")
        values = bands[order, band]
        changes = np.flatnonzero(values[1:] != values[:-1]) + 1
        starts = [0, *changes.tolist()]
        for start, end in pairwise([*starts, len(values)]):
            members = order[start:end]
            for at in range(len(members) - 1):
                rest = members[at + 1 : at + 1 + MAX_BUCKET]
                apart = distances(hashes[rest], hashes[members[at]])
                near = (apart <= limit) & (groups[rest] != groups[members[at]])
                for k in np.flatnonzero(near):
                    i, j = sorted((int(members[at]), int(rest[k])))
                    if (i, j) not in found:
                        found.add((i, j))
                        yield i, j, int(apart[k])
                        if len(found) == MAX_PAIRS:
                            return


def stacked(hashes: Sequence[bytes]) -> NDArray[np.uint8]:
    """[n, 32]"""
    return np.frombuffer(b"".join(hashes), dtype=np.uint8).reshape(-1, BITS // 8)


# Text that is no plain question: markup, addresses, words to the model; and its language.

CONTROL = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]"
)
_SPOKEN: tuple[tuple[str, re.Pattern[str]], ...] = (
    (
        "speaks to the model",
        re.compile(
            r"\b(?:ignore|disregard|forget)\b.{0,40}\b(?:instructions?|prompts?|above|previous|rules)\b"
            r"|\b(?:system prompt|jailbreak|you are now|act as (?:an? )?(?:ai|assistant|model))\b"
            r"|\b(?:always|only) (?:answer|respond|reply)(?: with)? (?:[A-H]\b|yes\b|no\b)",
            re.IGNORECASE | re.DOTALL,
        ),
    ),
    ("holds tags of an answer", re.compile(r"</?(?:think|answer)>|\\boxed\{", re.IGNORECASE)),
    (
        "holds markup",
        re.compile(r"</?(?:script|iframe|html|body|div|span|img|p|br|a|table|td|tr|style)\b[^>]{0,200}>"
                   r"|<!--|&(?:nbsp|lt|gt|amp|quot|#\d+);", re.IGNORECASE),
    ),
    ("holds an address", re.compile(r"\bhttps?://\S+|\bwww\.\S+\.\S+", re.IGNORECASE)),
    ("holds a file's path", re.compile(r"(?:^|\s)/(?:home|mnt|data|root|Users|tmp)/\S+")),
)  # fmt: skip


def markup(text: str) -> str:
    """Says which control character of `text` would break a prompt; "" if none is there."""
    found = CONTROL.search(text)
    return f"holds the control character {found[0]!r}" if found else ""


def instructions(text: str) -> str:
    """Says what a person should look at in `text`, such as an address; "" if nothing. It may be harmless."""
    for reason, pattern in _SPOKEN:
        found = pattern.search(text)
        if found:
            return f"{reason}: {' '.join(found[0].split())[:60]!r}"
    return ""


class Languages:
    """Language of questions by py3langid, loaded at the first; short questions are not judged."""

    MIN_CHARS = 24
    SURE = 0.95
    # A question about robots in another alphabet needs no model to be recognised.
    _SCRIPTS = (
        ("zh", re.compile("[\u4e00-\u9fff]")),
        ("ja", re.compile("[\u3040-\u30ff]")),
        ("ko", re.compile("[\uac00-\ud7af]")),
        ("ru", re.compile("[\u0400-\u04ff]")),
        ("ar", re.compile("[\u0600-\u06ff]")),
        ("hi", re.compile("[\u0900-\u097f]")),
    )
    # The model knows a hundred languages; with only the likely ones it makes fewer mistakes.
    LATIN = ("en", "de", "fr", "es", "it", "pt", "nl", "pl", "sv", "tr", "vi", "id")

    def __init__(self) -> None:
        self._model: Any = None
        self.known = True

    def __call__(self, text: str) -> str:
        """A code such as en; "" if it is not sure."""
        letters = sum(char.isalpha() for char in text) or 1
        for code, script in self._SCRIPTS:
            if len(script.findall(text)) > 0.3 * letters:
                return code
        if len(text) < self.MIN_CHARS or not self.known:
            return ""
        if self._model is None:
            try:
                from py3langid.langid import MODEL_FILE, LanguageIdentifier
            except ImportError:
                self.known = False
                return ""
            self._model = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
            self._model.set_languages(list(self.LATIN))
        found, sure = self._model.classify(text)
        return str(found) if sure >= self.SURE else ""


# `diff`: which rows two pools do not share, and in which columns the shared ones differ.

_COMPARED = tuple(n for n in SAMPLES.names if n not in ("id", "images"))
_COUNTED = ("family", "split")


@dataclass
class Diff:
    """From A to B. `changed`: id -> columns that differ. `counts`: column -> value -> (A, B)."""

    added: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    changed: dict[str, list[str]] = field(default_factory=dict)
    same: int = 0
    counts: dict[str, dict[str, tuple[int, int]]] = field(default_factory=dict)

    @property
    def columns(self) -> Counter[str]:
        """Rows that changed, by column."""
        return Counter(name for names in self.changed.values() for name in names)


def diff(a: Path, b: Path) -> Diff:
    """Compare two pools by id; in memory is one digest for each column of a row. Images count by bytes."""
    before, counts_a = _digests(a)
    after, counts_b = _digests(b)
    found = Diff()
    names = [*_COMPARED, "images"]
    for id, row in after.items():
        old = before.get(id)
        if old is None:
            found.added.append(id)
        elif old == row:
            found.same += 1
        else:
            parts = zip(names, _parts(old), _parts(row), strict=True)
            found.changed[id] = [name for name, x, y in parts if x != y]
    found.removed = [id for id in before if id not in after]
    for name in _COUNTED:
        values = sorted(counts_a[name].keys() | counts_b[name].keys())
        found.counts[name] = {v: (counts_a[name][v], counts_b[name][v]) for v in values}
    return found


_SIZE = 8  # bytes of a column's digest


def _digests(pool: Path) -> tuple[dict[str, bytes], dict[str, Counter[str]]]:
    rows: dict[str, bytes] = {}
    counts: dict[str, Counter[str]] = {name: Counter() for name in _COUNTED}
    paths = shard_paths(pool)
    images = _images(paths)
    for row in read_columns(paths, ["id", *_COMPARED]):
        for name in _COUNTED:
            counts[name][str(row[name])] += 1
        parts = [_digest(repr(row[name]).encode()) for name in _COMPARED]
        rows[str(row["id"])] = b"".join([*parts, next(images)])
    return rows, counts


def _images(paths: list[Path]) -> Any:
    """The digest of every row's images, in small batches: they are what a pool is made of."""
    for path in paths:
        for batch in open_parquet(path).iter_batches(batch_size=8, columns=["images"]):
            for row in batch.to_pylist():
                whole = hashlib.blake2b(digest_size=_SIZE)
                for image in row["images"] or ():
                    whole.update(_digest((image or {}).get("bytes") or repr(image).encode()))
                yield whole.digest()


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=_SIZE).digest()


def _parts(row: bytes) -> list[bytes]:
    return [row[i : i + _SIZE] for i in range(0, len(row), _SIZE)]
