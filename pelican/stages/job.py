"""What a process of a stage shares with the others of its job, and with later attempts.

Its place among them, the folder that the stage owns, progress, and the shards that replicas lease.
Behind it is a store; `StageJob.in_folder` is the same over a plain folder.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pelican.config import env
from pelican.config.stages import is_training
from pelican.monitoring import record
from pelican.monitoring.progress import Event, emit
from pelican.records import Phase
from pelican.storage.claims import CLAIMS, Claim, Claims
from pelican.storage.store import FolderStore, ObjectStore

if TYPE_CHECKING:
    from pelican.config.recipe import RewardConfig
    from pelican.data.tables import Quarantine
    from pelican.rewards.judge import EndpointJudge

_POLL_S = 1.0


@dataclass
class StageJob:
    """One process of a stage. What it writes lies below `prefix` in `store`."""

    store: ObjectStore
    prefix: str
    stage: str
    loop: int
    phase: Phase
    rank: int = 0
    world_size: int = 1
    barrier: Callable[[], object] = lambda: None
    _last_progress: float = 0.0

    @classmethod
    def in_folder(
        cls,
        folder: Path,
        stage: str = "",
        loop: int = 1,
        phase: Phase = Phase.RL,
        rank: int = 0,
        world_size: int = 1,
    ) -> StageJob:
        """A job whose output is `folder`; a judge's votes are kept beside it."""
        store = FolderStore(folder.parent)
        return cls(store, folder.name, stage, loop, phase, rank, world_size)

    # Files of the stage. What lies in `work/` is kept for later attempts but not committed.

    def output(self, name: str = "") -> Path:
        """Local path for an output file; its folder exists."""
        path = Path(self.store.local_root(self.prefix)) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def put(self, name: str) -> None:
        """The output file `name` is whole: other processes and later attempts may have it."""
        self.store.put(f"{self.prefix}/{name}", self.output(name))

    def has(self, name: str) -> bool:
        """Whether some process, of this attempt or an earlier one, has `put` or written the file."""
        return self.store.exists(f"{self.prefix}/{name}")

    def local(self, name: str) -> Path:
        """Local path of a file that some process has `put`. Raises KeyError."""
        return self.store.local(f"{self.prefix}/{name}")

    def read(self, name: str) -> bytes:
        """A small file that some process wrote. Raises KeyError."""
        return self.store.read(f"{self.prefix}/{name}")

    def write(self, name: str, data: bytes) -> None:
        """Write a small file, atomically, for all processes."""
        self.store.write(f"{self.prefix}/{name}", data)

    def names(self) -> set[str]:
        """The files that are there, by whichever process."""
        keys = self.store.keys(self.prefix)
        return {key.removeprefix(f"{self.prefix}/") for key in keys}

    def restored(self, name: str) -> Path:
        """`output(name)`, a folder of `work/`, with what an earlier attempt kept, on any machine."""
        if self.store.remote:
            if env.local_rank() == 0:
                self.store.restore(f"{self.prefix}/{name}")
            self.barrier()
        return self.output(name)

    def keep(self, name: str, last: tuple[str, ...]) -> None:
        """Every rank: the folder `name` is whole, and the next attempt may find it on any machine.

        Of the folders beside it none is kept. The files `last`, rank 0's, mark it as whole.
        """
        if not self.store.remote:
            return
        prefix = f"{self.prefix}/{name}"
        self.barrier()
        if env.local_rank() == 0:
            self.store.upload(prefix, skip=last)
        self.barrier()
        if self.rank == 0:
            for file in last:
                self.store.put(f"{prefix}/{file}", self.output(name) / file)
            above = prefix.rpartition("/")[0]
            depth = above.count("/") + 1
            for sibling in {key.split("/")[depth] for key in self.store.keys(above)}:
                if f"{above}/{sibling}" != prefix:
                    self.store.delete(f"{above}/{sibling}")

    # What is said while the stage works.

    def progress(self, done: int, total: int, unit: str, **info: float) -> None:
        """Report progress, at most twice a second; the launcher that follows the log shows it.

        Each rank reports its share, which the launcher sums; training is reported by rank 0.
        """
        training = is_training(self.stage)
        shared = self.rank == 0 or not training
        record.progressed(done, total, counted=shared)
        if not shared:
            return
        if done != total and time.monotonic() - self._last_progress < 0.5:
            return
        self._last_progress = time.monotonic()
        event: Event = {"stage": self.stage, "loop": self.loop, "phase": self.phase}
        event |= {"done": done, "total": total, "unit": unit, **info}
        if self.world_size > 1 and not training:
            event["rank"] = self.rank
        emit("progress", event)

    def log_left_out(self, quarantine: Quarantine, of: Collection[str] | None = None) -> None:
        """Print the samples of `quarantine` with their reasons; with `of`, only those whose id is
        in it. Counting them is left to the stage.
        """
        for row in quarantine.rows:
            if of is None or row.id in of:
                print(f"left out: {row}", flush=True)

    # What all stages of a store share, and what the replicas of this one do.

    def judge(self, config: RewardConfig, *, training: bool = False) -> EndpointJudge | None:
        """The judge of free text, if there is one; its votes are kept for all stages."""
        from pelican.rewards import judge_of

        return judge_of(config, training=training, store=self.store)

    def leases(self, names: list[str], finished: Callable[[], set[str]]) -> Leases:
        """The items `names`, each worked on by one replica at a time.

        `finished` gives the names of those that are done, by whichever replica.
        """
        claims = Claims(
            self.store,
            f"{self.prefix}/{CLAIMS}",
            f"{socket.gethostname()}-{os.getpid()}-{self.rank}",
            attempt=env.attempt(),
            lease_s=env.lease_s(),
        )
        # Each replica begins elsewhere, so that they seldom ask for the same item.
        start = len(names) * self.rank // max(1, self.world_size)
        return Leases(claims, names[start:] + names[:start], finished)


@dataclass(frozen=True)
class Lease:
    """An item that this replica works on until it releases it, unless `claim.lost`."""

    name: str
    claim: Claim
    release: Callable[[], None]


class Leases:
    """Items that replicas share out among themselves, in the order in which this one asks for them."""

    def __init__(self, claims: Claims, names: list[str], finished: Callable[[], set[str]]) -> None:
        self._claims, self._names, self._finished = claims, names, finished
        self._mine: set[str] = set()

    def take(self) -> Lease | None:
        """An item that is free, or whose replica is lost; None if there is none just now."""
        done = self._finished()
        for name in self._names:
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
            return Lease(name, claim, stack.close)
        return None

    def wait(self) -> bool:
        """After `take` found nothing: False if all is finished, else True, after a short while."""
        if self._finished().issuperset(self._names):
            return False
        record.waited()
        time.sleep(min(_POLL_S, env.lease_s() / 10))
        return True

    def each(self) -> Iterator[Lease]:
        """Items one after the other, each released after its turn; ends when all are finished.

        What other replicas hold is waited for, and taken over if they are lost.
        """
        while True:
            lease = self.take()
            if lease is not None:
                try:
                    yield lease
                finally:
                    lease.release()
            elif not self.wait():
                return
