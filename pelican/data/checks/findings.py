"""A finding: one fault of one row, or of the pool; errors count against the threshold."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

KEPT = 500  # findings of one check that keep their row; all are counted

# What each check looks for; an error makes its rows unusable or a result untrue.
CHECKS: dict[str, tuple[Literal["error", "warning"], str]] = {
    "rows": ("error", "schema, media that open, answers inside their choices, frame and clip"),
    "mask_shape": ("error", "a mask of another shape than its image"),
    "leak": ("error", "a scene or an image that is in two splits, or in an evaluation set"),
    "near_leak": ("warning", "an image that nearly is one of another split or evaluation set"),
    "duplicate": ("warning", "the same question about the same media"),
    "near_duplicate": ("warning", "nearly the same image in two scenes of one split"),
    "balance": ("warning", "an answer or a family that is far too common"),
    "language": ("warning", "a question in another language than most"),
    "license": ("warning", "no licence"),
    "markup": ("error", "control or direction characters"),
    "instructions": ("warning", "text that is markup, an address, or speaks to the model"),
    "changed": ("error", "a file that is not what version.json says"),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """`id` is empty and `row` 0 where the whole pool is meant; `other` is the row it collides with.

    `row` counts from 1 within its shard.
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
