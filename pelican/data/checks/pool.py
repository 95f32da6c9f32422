"""What a scan tells: copies, leaks, balance, languages, licences, changed files."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pelican.data.checks.findings import Finding, Findings
from pelican.data.checks.hashing import BITS, near_pairs, stacked
from pelican.data.checks.scan import Scan, Seen, scan
from pelican.data.versions import read_version
from pelican.storage.manifests import file_digest

MIN_BALANCE = 40  # answers below which nothing is said about their balance
MAX_SHARE = 0.85  # of yes among yes and no, of one count among counts, of one family


@dataclass(frozen=True)
class Checked:
    """The outcome. `bad_share`: rows with an error among all rows."""

    scan: Scan
    findings: Findings
    rows: int
    version: str | None

    @property
    def bad_share(self) -> float:
        return len(self.findings.faulty) / max(1, self.rows)

    def passes(self, threshold: float) -> bool:
        """Whether no more than `threshold` of the rows are faulty, and nothing of the whole is."""
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
    version = _changed(folder, findings)
    rows = len(found.index.entries) + len(found.index.quarantine)
    return Checked(found, findings, rows, version)


def _at(check: str, row: Seen, reason: str, other: str = "") -> Finding:
    return Finding(check, row.id, reason, row.shard, row.row, other)


def _duplicates(found: Scan, findings: Findings) -> None:
    first: dict[bytes, Seen] = {}
    for row in found.rows:
        before = first.setdefault(row.question, row)
        if before is not row:
            reason = f"asks what {before.id} asks, about the same media"
            findings.add(_at("duplicate", row, reason, before.id))


def _leaks_between_splits(found: Scan, findings: Findings) -> None:
    scenes: dict[str, Seen] = {}
    for row in found.rows:
        before = scenes.setdefault(row.scene, row)
        if before.split != row.split:
            reason = f"scene {row.scene!r} is in split {before.split} and in {row.split}"
            findings.add(_at("leak", row, reason, before.id))
    told: set[int] = set()
    for digest, later in found.again.items():
        before = found.rows[found.first[digest]]
        for number in later:
            row = found.rows[number]
            if row.split != before.split and number not in told:
                told.add(number)
                reason = f"one of its images is in split {before.split} too, it is in {row.split}"
                findings.add(_at("leak", row, reason, before.id))


def _near(found: Scan, findings: Findings, limit: int) -> None:
    """Nearly the same image in two scenes: across splits a leak, within one a duplicate."""
    told: set[tuple[str, str]] = set()
    for i, j, bits in near_pairs(stacked(found.hashes), limit, _scenes(found)):
        a, b = found.rows[found.hash_rows[i]], found.rows[found.hash_rows[j]]
        if (a.scene, b.scene) not in told:
            told.add((a.scene, b.scene))
            check = "near_duplicate" if a.split == b.split else "near_leak"
            reason = f"an image is within {bits} of {BITS} bits of one of {a.id}"
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
    leaked: dict[int, Seen] = {}
    for digest in found.first:
        if digest in other.first:
            for number in found.having(digest):
                leaked.setdefault(number, other.rows[other.first[digest]])
    for number, held in sorted(leaked.items(), key=lambda item: item[0]):
        reason = f"one of its images is in the evaluation set {name}"
        findings.add(_at("leak", found.rows[number], reason, held.id))
    ours = len(found.hashes)
    sides = np.repeat(np.array([0, 1], dtype=np.int64), [ours, len(other.hashes)])
    told: set[tuple[str, str]] = set()
    for i, j, bits in near_pairs(stacked([*found.hashes, *other.hashes]), limit, sides):
        if found.hash_digests[i] == other.hash_digests[j - ours]:
            continue
        row, held = found.rows[found.hash_rows[i]], other.rows[other.hash_rows[j - ours]]
        if (row.scene, held.scene) not in told:
            told.add((row.scene, held.scene))
            reason = f"an image is within {bits} of {BITS} bits of one of the evaluation set {name}"
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


def _changed(folder: Path, findings: Findings) -> str | None:
    """Compare the shards with what `version.json` says of them."""
    version = read_version(folder) if folder.is_dir() else None
    if version is None:
        return None
    for shard in version.shards:
        path = folder / shard.name
        if not path.is_file():
            findings.add(Finding("changed", "", f"{shard.name} is gone"))
        elif file_digest(path) != shard.sha256:
            findings.add(Finding("changed", "", f"{shard.name} was changed after the import"))
    extra = {p.name for p in folder.glob("*.parquet")} - {s.name for s in version.shards}
    for name in sorted(extra):
        findings.add(Finding("changed", "", f"{name} was added after the import"))
    return version.id
