"""Polling, for stores that send no events: what is new below the prefix since the last look."""

from __future__ import annotations

import logging
import time

from pydantic import Field

from pelican.retrain.trigger.config import Metrics, TriggerConfig
from pelican.retrain.trigger.inbox import ROOT, Inbox, ObjectEvent, is_wanted
from pelican.retrain.trigger.records import DamagedError, Stored, encode, parse_json, read_record
from pelican.retrain.trigger.worker import Submitter, Worker
from pelican.storage import open_store
from pelican.storage.store import ObjectStore

log = logging.getLogger("pelican.retrain.trigger")
WATERMARK = f"{ROOT}/watermark.json"


class Watermark(Stored):
    """What polling has handed on: all that was written until `until` (seconds since 1970), and `tags`."""

    until: float = Field(-1.0, allow_inf_nan=False)
    tags: dict[str, str] = Field(default_factory=dict)


def poll(source: ObjectStore, inbox: Inbox, *, rescan: bool = False) -> int:
    """Hand every object above the watermark to the inbox; returns how many were new.

    The watermark holds the tag of every key that is there and was handed on. S3 lists tags and
    times, so what was overwritten is found; what was written `retention_s` before the newest
    object is recognised by its time alone. A folder lists neither: there a known key is not read again
    unless `rescan`, so deliver new data under a new key. The watermark moves after the events are
    safe, so a poll that is cut off is repeated; an event that comes twice counts once.
    """
    config = inbox.config
    mark, tag = _read_watermark(inbox)
    there = _list(source, config.prefix, mark, rescan)
    found: dict[str, str] = {}
    new, newest = 0, mark.until
    for key, (now, written) in sorted(there.items()):
        event = ObjectEvent(bucket=config.bucket or "", key=key, tag=now)
        if not is_wanted(event, config):
            continue
        newest = max(newest, written)
        if written > mark.until and mark.tags.get(key) != now:
            new += inbox.receive(event) == "new"
            found[key] = now
    while True:
        until = mark.until
        if source.remote:
            until = max(until, newest - config.retention_s)
        tags = {
            key: seen
            for key, seen in {**mark.tags, **found}.items()
            if key in there and there[key][1] > until
        }
        if tags == mark.tags:
            return new
        data = encode(Watermark(until=until, tags=tags))
        if inbox.store.write(WATERMARK, data, if_absent=tag is None, if_tag=tag):
            return new
        mark, tag = _read_watermark(inbox)  # another replica polls too


def _list(
    source: ObjectStore, prefix: str, mark: Watermark, rescan: bool
) -> dict[str, tuple[str, float]]:
    """Tag and time of the objects in the folder that `prefix` is in, by key."""
    folder = prefix.rpartition("/")[0]
    if source.remote or rescan:
        return source.entries(folder)
    ages = source.ages(folder)
    return {
        key: (mark.tags.get(key) or next(iter(source.tags(key).values()), ""), written)
        for key, written in ages.items()
    }


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
    the store for the next call, unless `at_once`. Without, a store that is away is asked again.
    """
    source = open_store(config.source) if config.source else store
    worker = Worker(store, config, submitter, Metrics())
    new, next_look = 0, 0.0
    try:
        while True:
            try:
                if time.monotonic() >= next_look:
                    new += poll(source, worker.inbox, rescan=rescan)
                    next_look = float("inf") if once else time.monotonic() + every_s
                worker.tick(at_once=at_once)
            except Exception as error:
                if once:
                    raise
                worker.metrics.errors.inc()
                log.warning("a look failed: %s: %s", type(error).__name__, error)
            if once and (worker.idle() if at_once else worker.all_finished()):
                return new
            time.sleep(config.tick_s)
    finally:
        worker.stop()


def _read_watermark(inbox: Inbox) -> tuple[Watermark, str | None]:
    """The watermark and its tag; instead of a damaged one what the batches say was handed on."""
    try:
        return read_record(inbox.store, WATERMARK, Watermark, lambda m: bool(m.model_fields_set))
    except KeyError:
        return Watermark(), None
    except DamagedError as damage:
        old, tag = inbox.store.read_tagged(WATERMARK, checked=False)
        if _is_old(tree := parse_json(old)):
            return Watermark(tags=tree), tag
        head, _ = inbox.settle()
        batches = [inbox.batch(number) for number in range(1, head.number + 1 if head else 1)]
        return Watermark(tags={e.key: e.tag for b in batches for e in b.events}), damage.tag


def _is_old(tree: object) -> bool:
    """Whether a watermark is of the time when it had no time: tags by key, and nothing else."""
    return (
        isinstance(tree, dict) and tree != {} and all(isinstance(tag, str) for tag in tree.values())
    )
