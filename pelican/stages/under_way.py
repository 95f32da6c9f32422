"""The shards that a replica has in work: taken, handed to the engine, answered, committed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from pelican.data.quarantine import Quarantine
from pelican.records import Rollout, Sample
from pelican.stages.replicas import Held, Items

Load = Callable[[str, Quarantine], Iterator[Sample]]
Commit = Callable[[str, list[Rollout], Quarantine], None]


@dataclass
class _Shard:
    held: Held
    asked: int = 0  # samples that the engine got
    all_asked: bool = False
    groups: list[list[Rollout]] = field(default_factory=list)  # of the samples that it answered
    quarantine: Quarantine = field(default_factory=Quarantine)


class UnderWay:
    """Shards in the order in which the engine got their samples.

    `load` gives the samples of a shard by its name, `commit` writes what was answered of it.
    """

    def __init__(self, items: Items, load: Load, commit: Commit) -> None:
        self._items, self._load, self._commit = items, load, commit
        self._shards: deque[_Shard] = deque()

    def samples(self, held: Held, *, more: bool) -> Iterator[Sample]:
        """The samples of the shard that is held and, if `more`, of the next that is free, and so on.

        An engine that takes samples as it has room then never waits for the slowest of a shard. It
        asks for the next shard with the last samples of the one before still in work, so this
        replica may hold two.
        """
        taken: Held | None = held
        while taken is not None:
            shard = _Shard(taken)
            self._shards.append(shard)
            for sample in self._load(taken.name, shard.quarantine):
                shard.asked += 1
                yield sample
            shard.all_asked = True
            taken = self._items.take() if more else None

    def answer(self, group: list[Rollout]) -> None:
        """The rollouts of the next sample, in the order of `samples`."""
        next(shard for shard in self._shards if len(shard.groups) < shard.asked).groups.append(
            group
        )

    def commit(self) -> list[str]:
        """Write the shards of which all is answered; their names."""
        names = []
        while self._shards and self._shards[0].all_asked:
            shard = self._shards[0]
            if len(shard.groups) < shard.asked:
                break
            if not shard.held.claim.lost:  # else it is the other's to write
                rows = [rollout for group in shard.groups for rollout in group]
                self._commit(shard.held.name, rows, shard.quarantine)
                names.append(shard.held.name)
            self._shards.popleft().held.release()
        return names

    def rollouts(self) -> int:
        """How many there are of shards that are not committed yet."""
        return sum(len(group) for shard in self._shards for group in shard.groups)

    def release(self) -> None:
        """Leave what is not committed to others."""
        while self._shards:
            self._shards.popleft().held.release()
