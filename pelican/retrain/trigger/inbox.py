"""Events to batches, without losing or doubling one, by any number of replicas at once."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator
from datetime import date, datetime
from pathlib import PurePosixPath
from typing import Any, Literal
from urllib.parse import unquote_plus

from pelican import errors
from pelican.errors import UserInputError
from pelican.retrain.records import DataObject, find_version, make_version
from pelican.retrain.trigger.config import TriggerConfig
from pelican.retrain.trigger.records import DamagedError, Stored, encode, parse_json, read_record
from pelican.storage.manifests import now
from pelican.storage.manifests import now as utc_now
from pelican.storage.store import ObjectStore

# S3 bucket notifications (event message structure 2.x, as S3, MinIO and SeaweedFS send it).


_SEQUENCER = re.compile(r"[0-9A-Fa-f]{1,64}")


class MalformedError(ValueError):
    """A body that is no bucket notification."""


class ObjectEvent(Stored):
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
        """By S3's rule: hexadecimal, the shorter padded on its right; unknown is not older.

        One that is no such number is unknown: else it could be above all that come later.
        """
        if not (_SEQUENCER.fullmatch(self.sequencer) and _SEQUENCER.fullmatch(sequencer)):
            return False
        width = max(len(self.sequencer), len(sequencer))
        return self.sequencer.upper().ljust(width, "0") < sequencer.upper().ljust(width, "0")


def _digest(*parts: str) -> str:
    text = json.dumps(parts).encode()
    return hashlib.sha256(text).hexdigest()[:32]


def parse_notification(body: bytes, limit: int) -> list[ObjectEvent]:
    """The created objects of a notification; other events are left out. Raises MalformedError."""
    tree = parse_json(body)
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
#
# Each record can be made again from others, so a damaged one loses and doubles nothing: an event that
# waits from its mark, a mark from the batches, a batch from the head or from its events' marks, the
# head from the batches and from the marks of one that is not settled. All by conditional writes.

ROOT = "trigger"
HEAD = f"{ROOT}/head.json"
Received = Literal["new", "duplicate", "superseded"]


class Seen(Stored):
    """`seen/<id>.json`. `data`: the batch's data version."""

    event: ObjectEvent
    batch: int | None = None
    data: str | None = None


class Pending(Stored):
    """`pending/<id>.json`; `received` in seconds since 1970."""

    event: ObjectEvent
    received: float


class Batch(Stored):
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
        self.unreadable: list[str] = []  # sentences about events that wait and can't be sealed

    def receive(self, event: ObjectEvent) -> Received:
        """Keep an event; when this returns it is safe. The same object version counts once."""
        if self._is_superseded(event):
            return "superseded"
        if self._mark_of(event) is not None:
            return "duplicate"
        first = self._write_pending(event)
        if self.store.write(_seen_key(event.id), encode(Seen(event=event)), if_absent=True):
            return "new"
        # Somebody marked it in between: another replica, for the same batch, or a seal.
        seen = self._mark_of(event)
        if first and seen is not None and seen.batch is not None:
            self.store.delete(_pending_key(event.id))
        return "duplicate"

    def pending(self) -> list[Pending]:
        """Events that wait, the oldest first; one that another replica just takes may be missing."""
        found, self.unreadable = [], []
        for key in list(self.store.keys(f"{ROOT}/pending")):
            try:
                one = self._read_pending(PurePosixPath(key).stem)
            except KeyError:
                continue
            except DamagedError as damage:
                self.unreadable.append(str(damage))
                continue
            found.append(one)
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
            try:
                seen = self._mark_of(found.event)
            except DamagedError as damage:
                self.unreadable.append(str(damage))
                continue
            if seen is not None and seen.batch is not None:  # a late duplicate
                self.store.delete(_pending_key(found.event.id))
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
        if not self.store.write(HEAD, encode(batch), if_absent=tag is None, if_tag=tag):
            return None
        self.settle()
        return batch

    def settle(self) -> tuple[Batch | None, str | None]:
        """Mark everything of the newest batch; returns it with its tag. Any replica may, often."""
        head, tag = self.head()
        if head is None:
            return None, tag
        key = _batch_key(head.number)
        if self.store.exists(key):
            return head, tag
        for event in head.events:
            mark = Seen(event=event, batch=head.number, data=head.data)
            self.store.write(_seen_key(event.id), encode(mark))
        for event in head.events:
            self.store.delete(_pending_key(event.id))
        if not self.store.write(key, encode(head), if_absent=True):  # last: then all is marked
            self._give_back(head)
        return head, tag

    def head(self) -> tuple[Batch | None, str | None]:
        """The newest batch and the tag to swap it by; a damaged one is made again."""
        try:
            return read_record(self.store, HEAD, Batch)
        except KeyError:
            tag = None
        except DamagedError as damage:
            tag = damage.tag
        newest = max(self._numbers(), default=0)
        if tag is None and not newest:
            return None, None
        found = self._from_marks(newest + 1)  # swapped, and not settled
        if found is None and newest:
            found = self.batch(newest)
        if found is None:  # the first, of which nothing was marked: its events wait
            return None, tag
        self.store.write(HEAD, encode(found), if_absent=tag is None, if_tag=tag)
        return read_record(self.store, HEAD, Batch)

    def batch(self, number: int) -> Batch:
        """A settled batch; a damaged one is made again. Raises DamagedError if nothing tells of it."""
        key = _batch_key(number)
        try:
            return read_record(self.store, key, Batch, lambda batch: batch.number == number)[0]
        except KeyError:
            tag = None
            head, _ = self.settle()
        except DamagedError as damage:
            tag = damage.tag
            head = self._read_head()
        found = head if head and head.number == number else self._from_marks(number)
        if found is None:
            raise DamagedError(self.store, key, tag)
        self.store.write(key, encode(found), if_absent=tag is None, if_tag=tag)
        return found

    def restore_data(self, batch: Batch) -> None:
        """Make a batch's data version again if it can't be read."""
        try:
            find_version(self.store, batch.data or "")
        except (UserInputError, errors.DamagedError):
            self._data_version(batch.events)

    def _give_back(self, head: Batch) -> None:
        """Let events wait again that the batch of this number does not hold.

        That happens if the head was damaged while one replica settled it, and another sealed anew.
        """
        kept = {event.id for event in self.batch(head.number).events}
        for event in head.events:
            if event.id not in kept:
                self._write_pending(event)
                self.store.write(_seen_key(event.id), encode(Seen(event=event)))

    def _read_head(self) -> Batch | None:
        try:
            return read_record(self.store, HEAD, Batch)[0]
        except (KeyError, DamagedError):
            return None

    def _numbers(self) -> Iterator[int]:
        """Of the batches that are settled."""
        for key in self.store.keys(f"{ROOT}/batches"):
            if PurePosixPath(key).stem.isdecimal():
                yield int(PurePosixPath(key).stem)

    def _from_marks(self, number: int) -> Batch | None:
        """The batch that its events' marks tell of; None if none does."""
        marks = [mark for mark in self._marks() if mark.batch == number]
        if not marks:
            return None
        events = [mark.event for mark in marks]
        data = next((mark.data for mark in marks if mark.data), None) or self._data_version(events)
        known = {(event.key, event.tag) for event in events}
        events += [  # not marked yet
            ObjectEvent(bucket=events[0].bucket, key=o.key, tag=o.tag, size=o.size)
            for o in find_version(self.store, data).objects
            if (o.key, o.tag) not in known
        ]
        why = "made again from its events' marks"
        return Batch(number=number, events=events, data=data, why=why, sealed=utc_now())

    def _marks(self) -> Iterator[Seen]:
        """Every mark that can be read, the oldest first."""
        ages = self.store.ages(f"{ROOT}/seen")
        for key in sorted(ages, key=lambda key: ages[key]):
            try:
                yield read_record(self.store, key, Seen)[0]
            except (KeyError, DamagedError):
                continue

    def _mark_of(self, event: ObjectEvent) -> Seen | None:
        """Whether an event is known, and its batch; a damaged mark is made again."""
        key = _seen_key(event.id)
        try:
            return read_record(self.store, key, Seen, lambda seen: seen.event.id == event.id)[0]
        except KeyError:
            return None
        except DamagedError as damage:
            batch = self._batch_of(event)
            if batch is None:
                mark = Seen(event=event)
                self._write_pending(event)
            else:
                mark = Seen(event=event, batch=batch.number, data=batch.data)
            self.store.write(key, encode(mark), if_tag=damage.tag)
            return mark

    def _batch_of(self, event: ObjectEvent) -> Batch | None:
        """The batch that has an event, by looking at all. Raises DamagedError if one can't be read."""
        head, _ = self.settle()
        for number in range(head.number if head else 0, 0, -1):
            batch = self.batch(number)
            if any(one.id == event.id for one in batch.events):
                return batch
        return None

    def _write_pending(self, event: ObjectEvent) -> bool:
        pending = Pending(event=event, received=self.clock())
        return self.store.write(_pending_key(event.id), encode(pending), if_absent=True)

    def _read_pending(self, event_id: str) -> Pending:
        """An event that waits; a damaged one from its mark, or as the newest of its key."""
        key = _pending_key(event_id)
        try:
            return read_record(self.store, key, Pending, lambda p: p.event.id == event_id)[0]
        except DamagedError as damage:
            event = self._find_event(event_id)
            if event is None:
                raise
            pending = Pending(event=event, received=self.clock())
            self.store.write(key, encode(pending), if_tag=damage.tag)
            return pending

    def _find_event(self, event_id: str) -> ObjectEvent | None:
        key = _seen_key(event_id)
        try:
            return read_record(self.store, key, Seen, lambda s: s.event.id == event_id)[0].event
        except (KeyError, DamagedError):
            return next((event for event in self._newest_events() if event.id == event_id), None)

    def _newest_events(self) -> Iterator[ObjectEvent]:
        """The newest of each key, as far as it can be read."""
        for key in list(self.store.keys(f"{ROOT}/keys")):
            try:
                yield read_record(self.store, key, ObjectEvent)[0]
            except (KeyError, DamagedError):
                continue

    def _data_version(self, events: list[ObjectEvent]) -> str:
        """Make the data version that has the newest version of every key; its content gives its name."""
        versions = defaultdict[str, list[ObjectEvent]](list)
        for event in events:
            versions[event.key].append(event)
        newest = [_newest(of_key) for of_key in versions.values()]
        objects = [DataObject(key=e.key, tag=e.tag, size=e.size) for e in newest]
        source = self.config.source or self.store.uri
        return make_version(self.store, f"{self.config.model}-batch", source, objects).name

    def _is_superseded(self, event: ObjectEvent) -> bool:
        """Whether an event before this one was about a newer version of the key."""
        key = f"{ROOT}/keys/{event.key_id}.json"
        while True:
            known: ObjectEvent | None
            try:
                known, tag = read_record(
                    self.store, key, ObjectEvent, lambda e: e.key_id == event.key_id
                )
            except KeyError:
                known = tag = None
            except DamagedError as damage:
                marked = [m.event for m in self._marks() if m.event.key_id == event.key_id]
                self.store.write(key, encode(_newest([*marked, event])), if_tag=damage.tag)
                continue
            if known == event:
                return False
            if known is not None and event.older_than(known.sequencer):
                return True
            if self.store.write(key, encode(event), if_absent=tag is None, if_tag=tag):
                return False


def _newest(events: list[ObjectEvent]) -> ObjectEvent:
    """Of one key; of two that can't be compared the later in the list."""
    newest = events[0]
    for event in events[1:]:
        if not event.older_than(newest.sequencer):
            newest = event
    return newest


def _seen_key(event_id: str) -> str:
    return f"{ROOT}/seen/{event_id}.json"


def _pending_key(event_id: str) -> str:
    return f"{ROOT}/pending/{event_id}.json"


def _batch_key(number: int) -> str:
    return f"{ROOT}/batches/{number:06d}.json"


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
    """Every decision that is kept and can be read, the oldest first; the others are logged."""
    entries: dict[str, dict[str, Any]] = {}
    damaged: list[str] = []
    for key in store.keys(AUDIT):
        try:
            data, _ = store.read_tagged(key, checked=False)
        except KeyError:  # packed by a replica in between
            continue
        if key.endswith(".jsonl"):
            whole, rest = _read_packed(data)
            entries |= whole
            damaged += [key] * len(rest)
        elif (entry := _read_entry(data)) is not None:
            entries.setdefault(_name(key), entry)
        else:
            damaged.append(key)
    if damaged:
        where = f"{store.uri}/{damaged[0]}"
        log.warning("%d decisions can't be read and are left out, as in %s", len(damaged), where)
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
        try:
            age = (today - date.fromisoformat(day)).days
        except ValueError:  # no name that we gave
            continue
        single = [key for key in keys if not key.endswith(".jsonl")]
        if age * 86400 > keep_s:
            gone = keys
        elif age >= PACKED_DAYS and single:
            gone = _pack(store, day, single)
            if not gone:
                continue
        else:
            continue
        for key in gone:
            store.delete(key)
        count += 1
    return count


def _pack(store: ObjectStore, day: str, keys: list[str]) -> list[str]:
    """Add the decisions at `keys` to the day's object; returns those that it holds then.

    What can't be read is neither added nor lost: a damaged line stays in the object, a damaged
    decision where it is.
    """
    key = f"{AUDIT}/{day}.jsonl"
    while True:
        try:
            data, tag = store.read_tagged(key, checked=False)
        except KeyError:
            data, tag = b"", None
        entries, damaged = _read_packed(data)
        before, held = len(entries), []
        for one in keys:
            try:
                entry = _read_entry(store.read_tagged(one, checked=False)[0])
            except KeyError:  # another replica packed and deleted it
                continue
            if entry is not None:
                entries.setdefault(_name(one), entry)
                held.append(one)
        if len(entries) == before:
            return held
        lines = [json.dumps({"id": name, **entry}) for name, entry in sorted(entries.items())]
        whole = b"".join(line + b"\n" for line in (*damaged, *map(str.encode, lines)))
        if store.write(key, whole, if_absent=tag is None, if_tag=tag):
            return held


def _read_packed(data: bytes) -> tuple[dict[str, dict[str, Any]], list[bytes]]:
    """The decisions of a day's object by the names that they had, and the lines that are none."""
    entries: dict[str, dict[str, Any]] = {}
    damaged = []
    for line in data.splitlines():
        entry = _read_entry(line)
        if entry is not None and isinstance(entry.get("id"), str):
            entries[entry.pop("id")] = entry
        else:
            damaged.append(line)
    return entries, damaged


def _read_entry(data: bytes) -> dict[str, Any] | None:
    """A decision, or None if it can't be read."""
    entry = parse_json(data)
    return entry if isinstance(entry, dict) and isinstance(entry.get("at"), str) else None


def _name(key: str) -> str:
    return PurePosixPath(key).stem
