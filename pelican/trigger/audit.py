"""The audit trail: every decision of every replica, one object each, never changed."""

from __future__ import annotations

import json
import logging
import uuid
from typing import Any

from pelican.storage.manifests import now
from pelican.storage.objects import ObjectStore
from pelican.trigger.inbox import ROOT

log = logging.getLogger("pelican.trigger")


def record(store: ObjectStore, replica: str, what: str, **details: Any) -> None:
    """Keep one decision, and log it. Details hold no secret: the callers see to it."""
    at = now()
    entry = {"at": at.isoformat(), "replica": replica, "what": what, **details}
    text = json.dumps(entry, default=str)
    log.info(text)
    key = f"{ROOT}/audit/{at:%Y%m%d}/{at:%H%M%S%f}-{uuid.uuid4().hex[:8]}.json"
    store.write(key, text.encode(), if_absent=True)


def read_audit(store: ObjectStore) -> list[dict[str, Any]]:
    """Every decision, the oldest first."""
    entries = [json.loads(store.read(key)) for key in store.keys(f"{ROOT}/audit")]
    return sorted(entries, key=lambda entry: str(entry["at"]))
