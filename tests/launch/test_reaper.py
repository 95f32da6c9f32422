"""Which jobs are reaped; on a real cluster: tests/cluster."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest

from pelican.launch.kube import Kube
from pelican.launch.podspec import FOLLOWED, RUN, STORE
from pelican.launch.pytorchjob import reap_jobs
from pelican.storage.store import FolderStore


class Jobs:
    """The two calls that the reaper makes, and what it deleted."""

    def __init__(self, *jobs: dict[str, Any]) -> None:
        self._jobs, self.deleted = list(jobs), list[str]()

    def jobs(self, selector: str) -> list[dict[str, Any]]:
        assert selector == "app.kubernetes.io/managed-by=pelican"
        return self._jobs

    def delete_job(self, name: str, uid: str) -> None:
        self.deleted.append(name)


def job(store: str, run: str, minutes: float, *, ended: bool = False) -> dict[str, Any]:
    followed = datetime.now(UTC) - timedelta(minutes=minutes)
    conditions = [{"type": "Succeeded", "status": "True"}] if ended else []
    return {
        "metadata": {
            "name": run,
            "uid": "1",
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": {RUN: run},
            "annotations": {FOLLOWED: followed.isoformat(), STORE: store},
        },
        "status": {"conditions": conditions},
    }


@pytest.mark.parametrize(
    ("elsewhere", "run", "minutes", "ended", "why"),
    [
        (False, "going-on", 1, False, None),
        (False, "going-on", 40, False, "nobody has followed it for 40 min"),
        (False, "going-on", 40, True, None),
        (False, "cancelled", 1, False, "was cancelled"),
        (False, "gone", 1, False, "not in the store any more"),
        (True, "gone", 1, False, None),
        (True, "gone", 40, False, "nobody"),
    ],
)
def test_what_is_reaped(
    tmp_path: Path, elsewhere: bool, run: str, minutes: float, ended: bool, why: str | None
) -> None:
    store = FolderStore(tmp_path)
    for name in ("going-on", "cancelled"):
        store.write(f"runs/{name}/recipe.json", b"{}")
    store.write("runs/cancelled/cancelled.json", b"{}")
    uri = "s3://another/store" if elsewhere else store.uri
    jobs = Jobs(job(uri, run, minutes, ended=ended))
    found = dict(reap_jobs(cast(Kube, jobs), store, 1800.0))
    assert jobs.deleted == ([] if why is None else [run])
    if why is not None:
        assert why in found[run]
    assert bool(dict(reap_jobs(cast(Kube, jobs), store, 1800.0, dry_run=True))) == bool(found)
    assert len(jobs.deleted) == len(found)
