"""Polling, for stores that send no events: what is new below the prefix since the last look."""

from __future__ import annotations

import json

from pelican.storage.objects import ObjectStore
from pelican.trigger.events import ObjectEvent, is_wanted
from pelican.trigger.inbox import ROOT, Inbox

WATERMARK = f"{ROOT}/watermark.json"


def poll(source: ObjectStore, inbox: Inbox, *, rescan: bool = False) -> int:
    """Hand every object above the watermark to the inbox; returns how many were new.

    The watermark holds the tag of every key that was handed on. A known key is not read again:
    deliver new data under a new key. `rescan` reads them all and finds what was overwritten. The
    watermark moves after the events are safe, so a poll that is cut off is repeated; an event that
    is told twice counts once.
    """
    config = inbox.config
    known, mark = _read_watermark(inbox.store)
    found: dict[str, str] = {}
    new = 0
    for key in source.keys(config.prefix.rpartition("/")[0]):
        event = ObjectEvent(bucket=config.bucket or "", key=key, tag="-")
        if not is_wanted(event, config) or (key in known and not rescan):
            continue
        try:
            _, tag = source.read_tagged(key)
        except KeyError:
            continue
        tag = tag.strip('"')
        if known.get(key) == tag:
            continue
        new += inbox.receive(event.model_copy(update={"tag": tag})) == "new"
        found[key] = tag
    while found:
        data = json.dumps(known | found, indent=0, sort_keys=True).encode()
        if inbox.store.write(WATERMARK, data, if_absent=mark is None, if_tag=mark):
            break
        known, mark = _read_watermark(inbox.store)  # another replica polls too
    return new


def _read_watermark(store: ObjectStore) -> tuple[dict[str, str], str | None]:
    try:
        data, tag = store.read_tagged(WATERMARK)
    except KeyError:
        return {}, None
    return json.loads(data), tag
