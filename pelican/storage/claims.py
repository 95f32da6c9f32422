"""Claims through the store: each item belongs to one replica at a time; a lost one's is taken over.

A claim is an object that its owner rewrites every few seconds. The other replicas watch its entity
tag by their own clocks: if it does not change for `lease_s`, its owner is lost. So clocks need not
agree, and an owner that was only slow learns that it lost the item.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pelican.base.parse import JSONError, parse_json
from pelican.storage.store import WORK, ObjectStore

log = logging.getLogger("pelican.storage")
CLAIMS = f"{WORK}claims"  # below a stage's prefix


class Claim:
    """An item that this replica holds; `lost` once another took it over."""

    def __init__(self) -> None:
        self.lost = False


class Claims:
    """The claims below one prefix, as one replica sees them.

    A claim of another attempt is free at once, because whoever starts an attempt knows that the
    last one has ended.
    """

    def __init__(
        self,
        store: ObjectStore,
        prefix: str,
        owner: str,
        *,
        attempt: str = "",
        lease_s: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            store: where the claims are.
            prefix: below which they are, such as `runs/r/loop-1/rollout-rl/work/claims`.
            owner: this replica's name, unique among the replicas.
            attempt: the name of the generation of replicas.
            lease_s: seconds after which a claim that did not change is of a lost replica.
            clock: seconds, of this replica alone.
        """
        self._store, self._prefix = store, prefix
        self._owner, self._attempt = owner, attempt
        self._lease_s, self._clock = lease_s, clock
        self._watched: dict[str, tuple[str, float]] = {}  # claim -> its tag, since when
        self._beats = 0

    @contextmanager
    def hold(self, name: str) -> Iterator[Claim | None]:
        """The claim on `name`, kept alive meanwhile; None if another replica has it."""
        if not self.take(name):
            yield None
            return
        claim, ended = Claim(), threading.Event()

        def beat() -> None:
            while not ended.wait(self._lease_s / 4):
                try:
                    kept = self.renew(name)
                except Exception as error:  # another may have taken it, so it counts as lost
                    log.warning("the claim on %s was not renewed: %s", name, error)
                    kept = False
                if not kept:
                    claim.lost = True
                    return

        thread = threading.Thread(target=beat, daemon=True, name=f"claim-{name}")
        thread.start()
        try:
            yield claim
        finally:
            ended.set()
            thread.join()

    def take(self, name: str) -> bool:
        """Whether `name` is now this replica's: it was free, or its owner is lost."""
        key = self._key(name)
        if self._store.write(key, self._body(), if_absent=True):
            return True
        try:
            data, tag = self._store.read_tagged(key, checked=False)
        except KeyError:
            return False
        owner, attempt = _holder(data)
        if attempt != self._attempt or owner == self._owner:
            return self._store.write(key, self._body(), if_tag=tag)
        last = self._watched.get(name)
        if last is None or last[0] != tag:
            self._watched[name] = (tag, self._clock())
            return False
        if self._clock() - last[1] < self._lease_s:
            return False
        return self._store.write(key, self._body(), if_tag=tag)

    def renew(self, name: str) -> bool:
        """Rewrite the claim, which says that this replica lives; False if another has it by now."""
        try:
            data, tag = self._store.read_tagged(self._key(name), checked=False)
        except KeyError:
            return False
        if _holder(data) != (self._owner, self._attempt):
            return False
        return self._store.write(self._key(name), self._body(), if_tag=tag)

    def _key(self, name: str) -> str:
        return f"{self._prefix}/{name}.json"

    def _body(self) -> bytes:
        self._beats += 1
        return json.dumps(
            {"owner": self._owner, "attempt": self._attempt, "beat": self._beats}
        ).encode()


def _holder(data: bytes) -> tuple[object, object]:
    """(owner, attempt) of a claim; of a damaged one nobody, so that it is free."""
    try:
        held = parse_json(data)
        return held["owner"], held["attempt"]
    except (JSONError, LookupError, TypeError):
        return None, None


def release(store: ObjectStore, prefix: str) -> None:
    """Delete the claims of all stages below `prefix`, after their replicas have ended."""
    for key in [key for key in store.keys(prefix) if f"/{CLAIMS}/" in key]:
        store.delete(key)
