"""Events to batches, without losing or doubling one, by any number of replicas at once."""

from __future__ import annotations

import hashlib
import json
import logging
import time
import uuid
from collections import defaultdict
from collections.abc import Callable
from datetime import date, datetime
from pathlib import PurePosixPath
from typing import Any, Literal
from urllib.parse import unquote_plus

from pydantic import BaseModel

from pelican.base.model import Frozen
from pelican.retrain.records import DataObject, make_version
from pelican.retrain.trigger.config import TriggerConfig
from pelican.storage.manifests import now
from pelican.storage.manifests import now as utc_now
from pelican.storage.store import ObjectStore

# S3 bucket notifications (event message structure 2.x, as S3, MinIO and SeaweedFS send it).


class MalformedError(ValueError):
    """A body that is no bucket notification."""


class ObjectEvent(Frozen):
    """A version of an object was created. `sequencer` orders the versions of one key, if given."""

    bucket: str
    key: str
    tag: str
    size: int | None = None
    sequencer: str = ""

    @property
    def id(self) -> str:
        """An id that all events about one version of an object share."""
        return _digest(self.bucket, self.key, self.tag)

    @property
    def key_id(self) -> str:
        return _digest(self.bucket, self.key)

    def older_than(self, sequencer: str) -> bool:
        """By S3's rule: hexadecimal, the shorter padded on its right; unknown is not older."""
        if not (self.sequencer and sequencer):
            return False
        width = max(len(self.sequencer), len(sequencer))
        return self.sequencer.upper().ljust(width, "0") < sequencer.upper().ljust(width, "0")


def _digest(*parts: str) -> str:
    text = json.dumps(parts).encode()
    return hashlib.sha256(text).hexdigest()[:32]


def parse_notification(body: bytes, limit: int) -> list[ObjectEvent]:
    """The created objects of a notification; other events are left out. Raises MalformedError."""
    try:
        tree = json.loads(body)
    except (ValueError, RecursionError):
        raise MalformedError("the body is not JSON") from None
    if not isinstance(tree, dict):
        raise MalformedError("the body is not a JSON object")
    if tree.get("Event") == "s3:TestEvent":
        return []
    records = tree.get("Records")
    if not isinstance(records, list):
        raise MalformedError("there is no list Records")
    if len(records) > limit:
        raise MalformedError(f"{len(records)} records in one request; at most {limit}")
    return [event for record in records if (event := _event(record)) is not None]


def _event(record: Any) -> ObjectEvent | None:
    name = _text(record, "eventName").removeprefix("s3:")
    if not name.startswith("ObjectCreated"):
        return None
    s3 = record.get("s3")
    bucket = s3.get("bucket") if isinstance(s3, dict) else None
    found = s3.get("object") if isinstance(s3, dict) else None
    if not isinstance(bucket, dict) or not isinstance(found, dict):
        raise MalformedError("a record has no s3.bucket and s3.object")
    key = unquote_plus(_text(found, "key"))
    tag = _text(found, "eTag", "").strip('"') or _text(found, "versionId", "")
    if not key or not tag:
        raise MalformedError("an object has no key, or neither eTag nor versionId")
    size = found.get("size")
    whole = isinstance(size, int) and not isinstance(size, bool) and 0 <= size < 1 << 63
    return ObjectEvent(
        bucket=_text(bucket, "name"),
        key=key,
        tag=tag,
        size=size if whole else None,
        sequencer=_text(found, "sequencer", ""),
    )


def _text(tree: Any, name: str, default: str | None = None) -> str:
    """A text field without control or surrogate characters. Raises MalformedError."""
    value = tree.get(name, default) if isinstance(tree, dict) else None
    if value is None and default is not None:
        value = default
    if not isinstance(value, str) or len(value) > 2048:
        raise MalformedError(f"{name} is missing or not a short text")
    if any(ord(c) < 32 or 0xD800 <= ord(c) < 0xE000 for c in value):
        raise MalformedError(f"{name} holds characters that no name has")
    return value


def is_wanted(event: ObjectEvent, config: TriggerConfig) -> bool:
    """Whether the object is where new data is delivered, under a key that stays in its store."""
    parts = event.key.split("/")
    safe = not event.key.startswith("/") and ".." not in parts
    there = event.key.startswith(config.prefix) and event.key.endswith(config.suffix)
    return safe and there and config.bucket in (None, event.bucket)


# Events to batches, without losing or doubling one, by any number of replicas at once.
#
# An event is in batch n exactly if its `seen` record says so. Batches form one history: the next is
# made by swapping `head.json`, and only after everything of the newest has been marked; so two
# replicas that seal at the same time can't both win, and a late duplicate finds its mark.

ROOT = "trigger"
Received = Literal["new", "duplicate", "superseded"]


class Seen(Frozen):
    """`seen/<id>.json`."""

    event: ObjectEvent
    batch: int | None = None


class Pending(Frozen):
    """`pending/<id>.json`; `received` in seconds since 1970."""

    event: ObjectEvent
    received: float


class Batch(Frozen):
    """`head.json`, then `batches/<n>.json`. `events`: all it settles; `data`: None if none counts."""

    number: int
    events: list[ObjectEvent]
    data: str | None
    why: str
    sealed: datetime


class Inbox:
    """The events of one store. `clock` gives seconds since 1970."""

    def __init__(
        self,
        store: ObjectStore,
        config: TriggerConfig,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.store, self.config, self.clock = store, config, clock

    def receive(self, event: ObjectEvent) -> Received:
        """Keep an event; when this returns it is safe. The same object version counts once."""
        if self._is_superseded(event):
            return "superseded"
        seen_key, pending_key = f"{ROOT}/seen/{event.id}.json", f"{ROOT}/pending/{event.id}.json"
        if self._read_seen(event.id) is not None:
            return "duplicate"
        pending = Pending(event=event, received=self.clock())
        first = self.store.write(pending_key, _json(pending), if_absent=True)
        if self.store.write(seen_key, _json(Seen(event=event)), if_absent=True):
            return "new"
        # Somebody marked it in between: another replica, for the same batch, or a seal.
        seen = self._read_seen(event.id)
        if first and seen is not None and seen.batch is not None:
            self.store.delete(pending_key)
        return "duplicate"

    def pending(self) -> list[Pending]:
        """Events that wait, the oldest first; one that another replica just takes may be missing."""
        found = []
        for key in list(self.store.keys(f"{ROOT}/pending")):
            try:
                found.append(Pending.model_validate_json(self.store.read(key)))
            except KeyError:
                continue
        return sorted(found, key=lambda p: p.received)

    def due(self, waiting: list[Pending]) -> str | None:
        """Why the waiting events are a whole batch now, or None."""
        if not waiting:
            return None
        now, config = self.clock(), self.config
        if len(waiting) >= config.max_objects:
            return f"{len(waiting)} objects"
        if now - waiting[-1].received >= config.quiet_s:
            return f"quiet for {config.quiet_s:g} s"
        if now - waiting[0].received >= config.max_wait_s:
            return f"the first waited {config.max_wait_s:g} s"
        return None

    def seal(self, *, at_once: bool = False) -> Batch | None:
        """Make the next batch if one is due; None if not, or if another replica was faster."""
        head, tag = self.settle()
        waiting = self.pending()
        why = "asked for" if at_once and waiting else self.due(waiting)
        if why is None:
            return None
        fresh = []
        for found in waiting:
            seen = self._read_seen(found.event.id)
            if seen is not None and seen.batch is not None:  # a late duplicate
                self.store.delete(f"{ROOT}/pending/{found.event.id}.json")
            else:
                fresh.append(found.event)
        if not fresh:
            return None
        batch = Batch(
            number=head.number + 1 if head else 1,
            events=fresh,
            data=self._data_version(fresh),
            why=why,
            sealed=utc_now(),
        )
        swapped = self.store.write(
            f"{ROOT}/head.json", _json(batch), if_absent=tag is None, if_tag=tag
        )
        if not swapped:
            return None
        self.settle()
        return batch

    def settle(self) -> tuple[Batch | None, str | None]:
        """Mark everything of the newest batch; returns it with its tag. Any replica may, often."""
        head, tag = self.head()
        if head is None:
            return None, None
        key = f"{ROOT}/batches/{head.number:06d}.json"
        if self.store.exists(key):
            return head, tag
        for event in head.events:
            mark = Seen(event=event, batch=head.number)
            self.store.write(f"{ROOT}/seen/{event.id}.json", _json(mark))
        for event in head.events:
            self.store.delete(f"{ROOT}/pending/{event.id}.json")
        self.store.write(key, _json(head), if_absent=True)  # last: then all of it is marked
        return head, tag

    def head(self) -> tuple[Batch | None, str | None]:
        try:
            data, tag = self.store.read_tagged(f"{ROOT}/head.json")
        except KeyError:
            return None, None
        return Batch.model_validate_json(data), tag

    def batch(self, number: int) -> Batch:
        return Batch.model_validate_json(self.store.read(f"{ROOT}/batches/{number:06d}.json"))

    def _data_version(self, events: list[ObjectEvent]) -> str:
        """Make the data version that has the newest version of every key; its content gives its name."""
        newest: dict[str, ObjectEvent] = {}
        for event in events:
            before = newest.get(event.key)
            if before is None or not event.older_than(before.sequencer):
                newest[event.key] = event
        objects = [DataObject(key=e.key, tag=e.tag, size=e.size) for e in newest.values()]
        source = self.config.source or self.store.uri
        return make_version(self.store, f"{self.config.model}-batch", source, objects).name

    def _is_superseded(self, event: ObjectEvent) -> bool:
        """Whether an event before this one was about a newer version of the key."""
        key = f"{ROOT}/keys/{event.key_id}.json"
        while True:
            try:
                data, tag = self.store.read_tagged(key)
            except KeyError:
                data, tag = None, None
            if data is not None:
                known = ObjectEvent.model_validate_json(data)
                if known == event:
                    return False
                if event.older_than(known.sequencer):
                    return True
            if self.store.write(key, _json(event), if_absent=tag is None, if_tag=tag):
                return False

    def _read_seen(self, event_id: str) -> Seen | None:
        try:
            return Seen.model_validate_json(self.store.read(f"{ROOT}/seen/{event_id}.json"))
        except KeyError:
            return None


def _json(record: BaseModel) -> bytes:
    return record.model_dump_json().encode()


# The audit trail: every decision of every replica, one object each; a past day's in one object.

log = logging.getLogger("pelican.retrain.trigger")
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
            entries |= _read_packed(store.read(key))
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
        entries = _read_packed(data)
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


def _read_packed(data: bytes) -> dict[str, dict[str, Any]]:
    """The decisions of a day's object by the names that they had."""
    entries = [json.loads(line) for line in data.splitlines()]
    return {entry.pop("id"): entry for entry in entries}


def _name(key: str) -> str:
    return PurePosixPath(key).stem
