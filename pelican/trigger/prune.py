"""What the trigger remembers of events and requests, deleted when it is old enough."""

from __future__ import annotations

import time

from pelican.storage.objects import ObjectStore
from pelican.trigger.inbox import ROOT, Seen

EVERY_S = 3600.0
TIDIED = f"{ROOT}/tidied.json"


def is_due(store: ObjectStore, now: float) -> bool:
    """Whether nobody tidied for an hour; then the caller shall, and no other replica or poll will."""
    try:
        data, tag = store.read_tagged(TIDIED)
        last = float(data)
    except KeyError:
        last, tag = 0.0, None
    if now - last < EVERY_S:
        return False
    return store.write(TIDIED, str(now).encode(), if_absent=tag is None, if_tag=tag)


def prune(store: ObjectStore, older_s: float) -> int:
    """Delete marks of settled events, newest versions of keys and ids of requests; returns how many.

    An event that waits for its batch keeps its mark. A notification that comes again after
    `older_s` counts as new; a signed request does not, as its timestamp is too old by then.
    """
    now, count = time.time(), 0
    for kind in ("seen", "keys", "requests"):
        try:
            ages = store.ages(f"{ROOT}/{kind}")
        except FileNotFoundError:  # another replica deletes too
            continue
        for key, written in ages.items():
            if now - written > older_s and (kind != "seen" or _is_settled(store, key)):
                store.delete(key)
                count += 1
    return count


def _is_settled(store: ObjectStore, key: str) -> bool:
    try:
        return Seen.model_validate_json(store.read(key)).batch is not None
    except KeyError:
        return False
