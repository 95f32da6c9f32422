"""What the steps of a retraining hand on, and how it ended."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from pelican.frozen import Frozen
from pelican.runs import read_json, run_prefix
from pelican.storage.objects import ObjectStore

VERDICT = "verdict.json"
Outcome = Literal["promoted", "refused", "no weakness", "overtaken"]


class DataObject(Frozen):
    """One file of a data version. `tag`: what told the store's versions of the object apart."""

    key: str
    tag: str = ""
    size: int | None = None


class DataVersion(Frozen):
    """`data/versions/<name>.json`: files that were delivered together, named once for all."""

    name: str = Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,60}[a-z0-9])?$")
    source: str = Field(description="store or folder that the keys are of")
    objects: list[DataObject] = Field(min_length=1)
    digest: str
    created: datetime


class FileFault(Frozen):
    """A delivered file that can't be read at all."""

    key: str
    reason: str


class Intake(Frozen):
    """`facts.json`: what became of the delivered files."""

    version: str
    digest: str
    files: dict[str, str] = Field(description="key -> sha256")
    faults: list[FileFault]
    rows: int
    samples: int
    held_samples: int
    quarantined: dict[str, int]
    quarantine: list[dict[str, Any]]
    families: dict[str, int]

    @property
    def unusable(self) -> int:
        """Rows left out; a file that can't be read counts as one."""
        return sum(self.quarantined.values()) + len(self.faults)


class Weakness(Frozen):
    """`weakness.json`: what the parent can't do of the new data yet."""

    go_on: bool
    reason: str
    diagnosed: int
    mastered: int
    weak: int
    share: float
    mean_success_rate: float
    weak_by_family: dict[str, int]
    new_rows: int = 0
    replayed_rows: int = 0
    held_rows: int = 0
    left_out: dict[str, int] = Field(default_factory=dict)  # rows that can't be read, by code


class Verdict(Frozen):
    """`verdict.json`: how a retraining ended."""

    outcome: Outcome
    run: str
    data: str
    parent: str
    version: str | None = None
    reasons: list[str]
    numbers: dict[str, float] = Field(default_factory=dict)
    at: datetime


def verdict_key(run: str) -> str:
    return f"{run_prefix(run)}/{VERDICT}"


def read_verdict(store: ObjectStore, run: str) -> Verdict | None:
    tree = read_json(store, verdict_key(run))
    return None if tree is None else Verdict.model_validate(tree)


def write_verdict(store: ObjectStore, verdict: Verdict) -> Verdict:
    """Keep how a run ended; a run ends once."""
    data = verdict.model_dump_json(indent=1).encode()
    store.write(verdict_key(verdict.run), data, if_absent=True)
    kept = read_verdict(store, verdict.run)
    assert kept is not None
    return kept
