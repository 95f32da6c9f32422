"""What was decided about a version, beside it: a gate's checks with their numbers, or an override."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from pelican.digest import digest_of
from pelican.evaluation.gate import Check
from pelican.frozen import Frozen
from pelican.registry.versions import version_prefix
from pelican.storage.manifests import now
from pelican.storage.objects import ObjectStore


class Decision(Frozen):
    """`decisions/<digest>.json`. `against` is the version that was current then."""

    kind: Literal["gate", "override"]
    passed: bool
    against: str | None
    checks: list[Check] = Field(default_factory=list)
    by: str
    reason: str = ""
    at: datetime

    @property
    def reasons(self) -> list[str]:
        """Why not; or, if it passed, every check's sentence, or the person's reason."""
        failed = [check.reason for check in self.checks if not check.passed]
        if self.kind == "override":
            return [f"overridden by {self.by}: {self.reason}"]
        return failed or [check.reason for check in self.checks]


def record_decision(store: ObjectStore, model: str, version: int, decision: Decision) -> Decision:
    """Keep a decision; the same one (but for its time) is kept once, the first."""
    identity = digest_of(decision.model_dump(mode="json", exclude={"at"}))
    key = f"{version_prefix(model, version)}/decisions/{identity}.json"
    if store.write(key, decision.model_dump_json(indent=1).encode(), if_absent=True):
        return decision
    return Decision.model_validate_json(store.read(key))


def read_decisions(store: ObjectStore, model: str, version: int) -> list[Decision]:
    """All of them, the newest first."""
    prefix = f"{version_prefix(model, version)}/decisions"
    found = [Decision.model_validate_json(store.read(key)) for key in store.keys(prefix)]
    return sorted(found, key=lambda decision: decision.at, reverse=True)


def latest_decision(store: ObjectStore, model: str, version: int) -> Decision | None:
    return next(iter(read_decisions(store, model, version)), None)


def override(
    store: ObjectStore, model: str, version: int, against: str | None, by: str, reason: str
) -> Decision:
    """A person promotes what the gate refused or has not seen; the reason is kept."""
    made = Decision(kind="override", passed=True, against=against, by=by, reason=reason, at=now())
    return record_decision(store, model, version, made)
