"""Events to batches, without losing or doubling one, by any number of replicas at once.

An event is in batch n exactly if its `seen` record says so. Batches form one history: the next is
made by swapping `head.json`, and only after everything of the newest has been marked; so two
replicas that seal at the same time can't both win, and a late duplicate finds its mark.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime
from typing import Literal

from pydantic import BaseModel

from pelican.frozen import Frozen
from pelican.retrain.records import DataObject
from pelican.retrain.versions import make_version
from pelican.storage.manifests import now as utc_now
from pelican.storage.objects import ObjectStore
from pelican.trigger.config import TriggerConfig
from pelican.trigger.events import ObjectEvent

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
        if self._superseded(event):
            return "superseded"
        seen_key, pending_key = f"{ROOT}/seen/{event.id}.json", f"{ROOT}/pending/{event.id}.json"
        if self._seen(event.id) is not None:
            return "duplicate"
        pending = Pending(event=event, received=self.clock())
        first = self.store.write(pending_key, _json(pending), if_absent=True)
        if self.store.write(seen_key, _json(Seen(event=event)), if_absent=True):
            return "new"
        # Somebody marked it in between: another replica, for the same batch, or a seal.
        seen = self._seen(event.id)
        if first and seen is not None and seen.batch is not None:
            self.store.delete(pending_key)
        return "duplicate"

    def pending(self) -> list[Pending]:
        """What waits, the oldest first. One that another replica is taking away may be left out."""
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
            seen = self._seen(found.event.id)
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
        """Of every key its newest version; named by what it holds."""
        newest: dict[str, ObjectEvent] = {}
        for event in events:
            before = newest.get(event.key)
            if before is None or not event.older_than(before.sequencer):
                newest[event.key] = event
        objects = [DataObject(key=e.key, tag=e.tag, size=e.size) for e in newest.values()]
        source = self.config.source or self.store.uri
        return make_version(self.store, f"{self.config.model}-batch", source, objects).name

    def _superseded(self, event: ObjectEvent) -> bool:
        """Whether a newer version of the key was told of before; else this is the newest."""
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

    def _seen(self, event_id: str) -> Seen | None:
        try:
            return Seen.model_validate_json(self.store.read(f"{ROOT}/seen/{event_id}.json"))
        except KeyError:
            return None


def _json(record: BaseModel) -> bytes:
    return record.model_dump_json().encode()
