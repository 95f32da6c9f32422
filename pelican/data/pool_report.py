"""What preflight says about one pool, after reading all of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pelican.data.corrections import NONE, Corrections
from pelican.data.pool import no_sample, read_index
from pelican.data.quarantine import Quarantine
from pelican.errors import UserInputError


@dataclass
class PoolReport:
    """What preflight says about one pool."""

    folder: str
    samples: int = 0
    clips: int = 0
    longest_s: float = 0.0
    beyond_horizon: int = 0
    families: Counter[str] = field(default_factory=Counter)
    dimensions: Counter[str] = field(default_factory=Counter)
    splits: Counter[str] = field(default_factory=Counter)
    quarantine: Quarantine = field(default_factory=Quarantine)
    corrected: Mapping[str, int] = field(default_factory=dict)

    def summary(self) -> dict[str, Any]:
        """As JSON, with the first quarantined rows."""
        return {
            "folder": self.folder,
            "samples": self.samples,
            "clips": self.clips,
            "longest_s": self.longest_s,
            "beyond_horizon": self.beyond_horizon,
            "families": dict(sorted(self.families.items())),
            "dimensions": dict(sorted(self.dimensions.items())),
            "splits": dict(sorted(self.splits.items())),
            "quarantined": self.quarantine.counts,
            "quarantine": self.quarantine.notes(),
            "corrected": dict(self.corrected),
        }


def check_pool(
    folder: Path,
    *,
    max_pixels: int,
    horizon_s: float | None = None,
    images: bool = True,
    corrections: Corrections = NONE,
) -> PoolReport:
    """Read a whole pool and keep none of it. `images=False` leaves the images undecoded."""
    index = read_index(folder, corrections)
    quarantine = Quarantine(list(index.quarantine.rows))
    bad: set[str] = set()
    if images:
        good = index.load(index.entries, max_pixels=max_pixels, quarantine=quarantine)
        usable = sum(1 for _ in good)
        bad = {row.id for row in quarantine.rows[len(index.quarantine) :]}
        if not usable:
            raise UserInputError(no_sample(folder, quarantine))
    report = PoolReport(str(folder), quarantine=quarantine, corrected=index.corrected)
    for entry in index.entries:
        if entry.id in bad:
            continue
        report.samples += 1
        report.clips += entry.clip
        report.longest_s = max(report.longest_s, entry.span_s)
        report.beyond_horizon += horizon_s is not None and entry.span_s > horizon_s
        report.families[entry.family.value] += 1
        report.dimensions[entry.dimension.value] += 1
        report.splits[entry.split.value] += 1
    return report
