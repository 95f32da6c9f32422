"""A stage whose processes are replicas: any number, of any speed, and one may be lost.

They form no process group. Items are claimed through the store, and whoever finds all of them
finished commits the stage, once.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from pelican import settings
from pelican.errors import InfrastructureError
from pelican.stages.commit import begin as begin_stage
from pelican.stages.commit import commit, identity_seen, open_or_finished
from pelican.stages.context import StageContext
from pelican.stages.fingerprint import stage_fingerprint
from pelican.stages.resources import cpu_seconds_used, resources
from pelican.stages.spec import StageSpec
from pelican.storage.claims import CLAIMS, Claim, Claims
from pelican.storage.manifests import Manifest, now, read_manifest
from pelican.storage.objects import ObjectStore
from pelican.telemetry import exporter, record

_POLL_S = 1.0
_BEGIN_S = 300.0  # for replica 0 to clear what is of another recipe


def claims_of(context: StageContext) -> Claims:
    """The claims of one stage, by this replica."""
    return Claims(
        context.store,
        f"{context.spec.output}/{CLAIMS}",
        f"{socket.gethostname()}-{os.getpid()}-{context.rank}",
        attempt=settings.attempt(),
        lease_s=settings.lease_s(),
    )


@dataclass(frozen=True)
class Held:
    """An item that this replica has taken, under its claim until it is released."""

    name: str
    claim: Claim
    release: Callable[[], None]


class Items:
    """What the replicas of a stage share; `finished` names what is done, by whichever replica."""

    def __init__(
        self,
        context: StageContext,
        claims: Claims,
        names: list[str],
        finished: Callable[[], set[str]],
    ) -> None:
        # Each begins elsewhere, so that they seldom ask for the same item.
        start = len(names) * context.rank // max(1, context.world_size)
        self._order = names[start:] + names[:start]
        self._claims, self._finished = claims, finished
        self._mine: set[str] = set()

    def take(self) -> Held | None:
        """An item that is free, or whose replica is lost; None if there is none just now."""
        done = self._finished()
        for name in self._order:
            if name in done or name in self._mine:
                continue
            stack = ExitStack()
            claim = stack.enter_context(self._claims.hold(name))
            if claim is not None:
                done = self._finished()  # another may have finished it just before
            if claim is None or name in done:
                stack.close()
                continue
            self._mine.add(name)
            stack.callback(self._mine.discard, name)
            return Held(name, claim, stack.close)
        return None

    def wait(self) -> bool:
        """After `take` found nothing: False if all is finished, else True, after a short while."""
        if self._finished().issuperset(self._order):
            return False
        record.waited()
        time.sleep(min(_POLL_S, settings.lease_s() / 10))
        return True


def claimed(items: Items) -> Iterator[tuple[str, Claim]]:
    """Items that this replica shall do, each under its claim; ends when all are finished.

    What others hold is waited for, and taken over if they are lost.
    """
    while True:
        held = items.take()
        if held is not None:
            try:
                yield held.name, held.claim
            finally:
                held.release()
        elif not items.wait():
            return


def run_replica(store: ObjectStore, spec: StageSpec, module: Any) -> Manifest:
    """`module.work(context)` in every replica; `module.finish(context, its result)` where it commits."""
    rank = int(os.environ.get("RANK", "0"))
    context = StageContext(spec, store, rank, int(os.environ.get("WORLD_SIZE", "1")))
    begun = begin_stage(store, spec) if rank == 0 else _wait_for_begin(store, spec)
    if isinstance(begun, Manifest):
        return begun
    started = now()
    key = spec.output.replace("/", "-")
    telemetry = exporter.open_stage(spec.stage, spec.phase.value, key, None)
    with telemetry:
        record.began(spec.stage)
        plan = module.work(context)
    claims = claims_of(context)

    def committed() -> set[str]:
        return {"commit"} if _manifest_of(store, spec, begun) is not None else set()

    for _, claim in claimed(Items(context, claims, ["commit"], committed)):
        context = StageContext(spec, store, rank, context.world_size)  # a turn lost left counts
        module.finish(context, plan)
        # Replicas may be lost, so this one's use stands for that of each.
        used = cpu_seconds_used() * context.world_size
        context.notes["resources"] = resources(spec, context.world_size, started, used)
        if not claim.lost:
            record.finished(commit(context, begun, started), context.world_size)
    manifest = _manifest_of(store, spec, begun)
    assert manifest is not None
    telemetry.finish()
    return manifest


def _manifest_of(store: ObjectStore, spec: StageSpec, identity: str) -> Manifest | None:
    """The stage's manifest, if it is there; the inputs are not hashed again."""
    manifest = read_manifest(store, spec.output)
    return manifest if manifest is not None and manifest.fingerprint == identity else None


def _wait_for_begin(store: ObjectStore, spec: StageSpec) -> str | Manifest:
    """Until replica 0 has cleared the prefix, or the stage is finished."""
    deadline = time.monotonic() + _BEGIN_S
    read: str | None = None
    while True:
        there = store.exists(spec.output)
        identity = identity_seen(store, spec) if there else None
        if identity is None and there:  # its inputs may be copies of another time: read them, once
            identity = read = read or stage_fingerprint(store, spec)
        begun = open_or_finished(store, spec, identity) if identity else None
        if begun is not None:
            return begun
        if time.monotonic() > deadline:
            raise InfrastructureError(
                f"replica 0 did not begin {spec.output} within {_BEGIN_S:.0f} s; it may be lost"
            )
        time.sleep(0.1)
