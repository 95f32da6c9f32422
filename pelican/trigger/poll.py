"""Polling, for stores that send no events: what is new below the prefix since the last look."""

from __future__ import annotations

import json
import time

from pelican.storage.objects import ObjectStore, open_store
from pelican.trigger.config import TriggerConfig
from pelican.trigger.events import ObjectEvent, is_wanted
from pelican.trigger.inbox import ROOT, Inbox
from pelican.trigger.metrics import Metrics
from pelican.trigger.worker import Submitter, Worker

WATERMARK = f"{ROOT}/watermark.json"


def poll(source: ObjectStore, inbox: Inbox, *, rescan: bool = False) -> int:
    """Hand every object above the watermark to the inbox; returns how many were new.

    The watermark holds the tag of every key that was handed on. S3 lists tags, so what was
    overwritten is found. A folder has none: there a known key is not read again unless `rescan`, so
    deliver new data under a new key. The watermark moves after the events are safe, so a poll that is cut off is repeated; an event that
    is told twice counts once.
    """
    config = inbox.config
    known, mark = _read_watermark(inbox.store)
    found: dict[str, str] = {}
    new = 0
    for key, tag in sorted(_tags(source, config.prefix, known, rescan).items()):
        event = ObjectEvent(bucket=config.bucket or "", key=key, tag=tag)
        if not is_wanted(event, config) or known.get(key) == tag:
            continue
        new += inbox.receive(event) == "new"
        found[key] = tag
    while found:
        data = json.dumps(known | found, indent=0, sort_keys=True).encode()
        if inbox.store.write(WATERMARK, data, if_absent=mark is None, if_tag=mark):
            break
        known, mark = _read_watermark(inbox.store)  # another replica polls too
    return new


def _tags(source: ObjectStore, prefix: str, known: dict[str, str], rescan: bool) -> dict[str, str]:
    """Entity tags by key, of the folder that `prefix` is in."""
    folder = prefix.rpartition("/")[0]
    if source.remote or rescan:
        return source.tags(folder)
    found = dict(known)
    for key in source.keys(folder):
        if key not in known:
            found |= source.tags(key)
    return found


def keep_polling(
    store: ObjectStore,
    config: TriggerConfig,
    submitter: Submitter,
    *,
    every_s: float = 60.0,
    once: bool = False,
    at_once: bool = False,
    rescan: bool = False,
) -> int:
    """Poll, and look after the batches as the service does; returns the new objects.

    `once`: one look, and the end when no batch is under way; events that are not quiet yet wait in
    the store for the next call, unless `at_once`.
    """
    source = open_store(config.source) if config.source else store
    worker = Worker(store, config, submitter, Metrics())
    new, next_look = 0, 0.0
    try:
        while True:
            if time.monotonic() >= next_look:
                new += poll(source, worker.inbox, rescan=rescan)
                next_look = float("inf") if once else time.monotonic() + every_s
            worker.tick(at_once=at_once)
            if once and (worker.idle() if at_once else worker.all_finished()):
                return new
            time.sleep(config.tick_s)
    finally:
        worker.stop()


def _read_watermark(store: ObjectStore) -> tuple[dict[str, str], str | None]:
    try:
        data, tag = store.read_tagged(WATERMARK)
    except KeyError:
        return {}, None
    return json.loads(data), tag
