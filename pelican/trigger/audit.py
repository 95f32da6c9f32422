"""The audit trail: every decision of every replica, one object each; a past day's in one object."""

from __future__ import annotations

import json
import logging
import uuid
from collections import defaultdict
from datetime import date, datetime
from pathlib import PurePosixPath
from typing import Any

from pelican.storage.manifests import now
from pelican.storage.objects import ObjectStore
from pelican.trigger.inbox import ROOT

log = logging.getLogger("pelican.trigger")
AUDIT = f"{ROOT}/audit"
PACKED_DAYS = 2  # a day is packed when it is so long ago: replicas' clocks differ


def record(store: ObjectStore, replica: str, what: str, **details: Any) -> None:
    """Keep one decision, and log it. Details hold no secret: the callers see to it."""
    at = now()
    entry = {"at": at.isoformat(), "replica": replica, "what": what, **details}
    text = json.dumps(entry, default=str)
    log.info(text)
    key = f"{AUDIT}/{at:%Y%m%d}/{at:%H%M%S%f}-{uuid.uuid4().hex[:8]}.json"
    store.write(key, text.encode(), if_absent=True)


def read_audit(store: ObjectStore) -> list[dict[str, Any]]:
    """Every decision that is kept, the oldest first."""
    entries: dict[str, dict[str, Any]] = {}
    for key in store.keys(AUDIT):
        if key.endswith(".jsonl"):
            entries |= _packed(store.read(key))
        else:
            entries.setdefault(_name(key), json.loads(store.read(key)))
    return sorted(entries.values(), key=lambda entry: str(entry["at"]))


def rotate(store: ObjectStore, keep_s: float, at: datetime | None = None) -> int:
    """Pack past days, one object each, and delete days older than `keep_s`; returns how many.

    Any replica may, at the same time. A decision is deleted only after the day's object holds it.
    """
    today = (at or now()).date()
    days: defaultdict[str, list[str]] = defaultdict(list)
    for key in store.keys(AUDIT):
        days[key.removeprefix(f"{AUDIT}/")[:8]].append(key)
    count = 0
    for day, keys in sorted(days.items()):
        age = (today - date.fromisoformat(day)).days
        single = [key for key in keys if not key.endswith(".jsonl")]
        if age * 86400 > keep_s:
            gone = keys
        elif age >= PACKED_DAYS and single:
            _pack(store, day, single)
            gone = single
        else:
            continue
        for key in gone:
            store.delete(key)
        count += 1
    return count


def _pack(store: ObjectStore, day: str, keys: list[str]) -> None:
    """Add the decisions at `keys` to the day's object, unless another replica has."""
    key = f"{AUDIT}/{day}.jsonl"
    while True:
        try:
            data, tag = store.read_tagged(key)
        except KeyError:
            data, tag = b"", None
        entries = _packed(data)
        before = len(entries)
        for one in keys:
            try:
                entries.setdefault(_name(one), json.loads(store.read(one)))
            except KeyError:  # another replica packed and deleted it
                continue
        if len(entries) == before:
            return
        lines = [json.dumps({"id": name, **entry}) for name, entry in sorted(entries.items())]
        whole = "".join(f"{line}\n" for line in lines).encode()
        if store.write(key, whole, if_absent=tag is None, if_tag=tag):
            return


def _packed(data: bytes) -> dict[str, dict[str, Any]]:
    """The decisions of a day's object by the names that they had."""
    entries = [json.loads(line) for line in data.splitlines()]
    return {entry.pop("id"): entry for entry in entries}


def _name(key: str) -> str:
    return PurePosixPath(key).stem
