"""The engine that replays recorded rollouts, to debug a trainer or a reward without a model."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from pelican.config.recipe import Sampling
from pelican.data.tables import read_rows, shard_paths
from pelican.engines.base import Engine
from pelican.errors import UserInputError
from pelican.records import Rollout, Sample


class ReplayEngine(Engine):
    """Rollouts from the Parquet shards below `folder`, in the order of their index."""

    def __init__(self, folder: Path) -> None:
        self._rollouts: dict[str, list[Rollout]] = defaultdict(list)
        for rollout in read_rows(shard_paths(folder), Rollout):
            self._rollouts[rollout.sample_id].append(rollout)
        for rollouts in self._rollouts.values():
            rollouts.sort(key=lambda rollout: rollout.index)

    def generate(
        self, samples: Iterable[Sample], sampling: Sampling, n: int, seed: int
    ) -> Iterator[list[Rollout]]:
        for sample in samples:
            recorded = self._rollouts.get(sample.id, [])
            if len(recorded) < n:
                raise UserInputError(
                    f"sample {sample.id!r} has {len(recorded)} recorded rollouts but {n} are asked "
                    "for; lower rollout.samples or record more"
                )
            yield recorded[:n]
