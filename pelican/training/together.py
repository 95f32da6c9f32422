"""GRPO's groups drawn for all ranks together: kept, refilled, and dealt out again by length.

Nothing here depends on how many ranks there are but who does the work, so a training goes on the
same way on another number of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from typing import Any

import numpy as np
import torch

from pelican.collectives import from_all
from pelican.engines.base import rollout_seed
from pelican.engines.prompts import Encoded
from pelican.recipe import RlConfig
from pelican.records import Sample, Score
from pelican.training.ahead import Ahead
from pelican.training.generation import Generation
from pelican.training.groups import EPSILON, Group, StepRecord
from pelican.training.grpo import DeliberateGrpoTrainer

# Of one group: number among all drawn in this step, sample, completions, scores, log-probabilities.
_Record = tuple[int, int, list[list[int]], list[Score], list[list[float]] | None]


class DrawnTogether(DeliberateGrpoTrainer):
    """DeliberateGrpoTrainer whose groups are those of a step, whichever rank rolls them out.

    `engine` is brought to the policy's weights before every step; or, if they may be
    `max_staleness` steps old, before every so many, and then draws for the steps to come while this
    one trains.
    """

    def __init__(self, *args: Any, engine: Generation, config: RlConfig, **kwargs: Any) -> None:
        super().__init__(*args, engine=engine, config=config, **kwargs)
        self._generation = engine
        self._staleness = config.generation.max_staleness
        self._ahead: Ahead[StepRecord] | None = Ahead() if self._staleness else None
        self._drawn_step = 0
        # Groups are exchanged while another thread trains: its collectives must not mix with ours.
        self._exchange = (
            torch.distributed.new_group(backend="gloo", timeout=timedelta(hours=24))
            if self._staleness and self.accelerator.num_processes > 1
            else None
        )
        served = config.generation.where == "server"
        self._cap = config.generation.importance_cap if served else None

    @property
    def drawn_step(self) -> int:
        return self._drawn_step

    def _sync(self, step: int) -> None:
        difference = self._generation.sync(self.model_wrapped, step)
        if difference is not None:
            self._metrics["train"]["sync_difference"].append(difference)

    def _complete(
        self,
        samples: Sequence[Sample],
        prompts: Sequence[Encoded],
        seeds: Sequence[Sequence[int]],
    ) -> tuple[list[list[list[int]]], Sequence[list[list[float]] | None]]:
        groups = self._generation.complete(samples, prompts, self._config.sampling, seeds)
        ids = [[one.ids for one in group] for group in groups]
        if self._cap is None:
            return ids, [None] * len(groups)
        return ids, [[one.logps for one in group] for group in groups]

    def _collect(self, wanted: list[int]) -> StepRecord:
        """This rank's share of the step's groups; `wanted` are its rows of the schedule."""
        step, ahead = int(self.state.global_step), self._ahead
        drawn = bool(ahead)
        if drawn:
            assert ahead is not None
            record = ahead.next()
        else:
            self._sync(step)
            record = self._draw(
                [index for share in from_all(wanted, self._exchange) for index in share], step
            )
        if ahead is not None and not ahead and step + 1 < self.args.max_steps:
            # All that was asked for is drawn, so weights may change.
            if drawn:
                self._sync(step)
            for later in range(step + 1, min(step + 1 + self._staleness, self.args.max_steps)):
                ahead.submit(partial(self._draw, self._scheduled(later), later))
        return record

    def _scheduled(self, step: int) -> list[int]:
        """The samples of a step, of all ranks."""
        size = self._config.prompts_per_step
        samples: list[int] = self.train_dataset["sample"][step * size : (step + 1) * size]
        return samples

    def _draw(self, everyone: list[int], step: int) -> StepRecord:
        """This rank's share of as many groups as `everyone`, drawn for `step`."""
        self._drawn_step = step
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        more = round((self._config.oversample - 1) * len(everyone))
        refills = self._refills(everyone)
        mine: dict[int, Group] = {}
        records: dict[int, _Record] = {}
        flat: list[int] = []
        kept: list[int] = []
        for attempt in range(1 + self._config.refill):
            indices = everyone if attempt == 0 else []
            missing = len(everyone) - len(kept) + more - len(indices)
            indices = [*indices, *(next(refills) for _ in range(missing))]
            first = len(records)
            numbers = range(first + rank, first + len(indices), world)
            groups = self._roll_out([indices[n - first] for n in numbers], numbers)
            mine |= dict(zip(numbers, groups, strict=True))
            shares = from_all(
                [
                    (n, indices[n - first], g.completions, g.scores, g.logps)
                    for n, g in zip(numbers, groups, strict=True)
                ],
                self._exchange,
            )
            records |= {record[0]: record for share in shares for record in share}
            new = range(first, len(records))
            varied = [n for n in new if _varies(records[n])]
            kept += varied
            flat = [n for n in new if n not in varied]
            if len(kept) >= len(everyone):
                break
        chosen = (kept + flat)[: len(everyone)]
        share = self._share([records[n] for n in chosen], rank, world)
        trained = [mine[r[0]] if r[0] in mine else self._group(r) for r in share]
        return StepRecord(step, trained, list(mine.values()))

    def _share(self, records: Sequence[_Record], rank: int, world: int) -> list[_Record]:
        """As many groups for every rank, and about as many tokens: dealt out by length, to and fro."""
        order = sorted(records, key=lambda r: (-sum(map(len, r[2])), r[0]))
        rounds = [order[i : i + world] for i in range(0, len(order), world)]
        return [
            deal[rank if turn % 2 == 0 else world - 1 - rank] for turn, deal in enumerate(rounds)
        ]

    def _group(self, record: _Record) -> Group:
        """A group that another rank rolled out."""
        sample = self._samples[record[1]]
        return Group(sample, self._engine.encoder.prompt(sample), *record[2:])

    def _refills(self, wanted: Sequence[int]) -> Any:
        """As the parent's, the same on every rank."""
        seed = (self.args.seed, self.drawn_step)
        order = np.random.default_rng(seed).permutation(len(self._samples)).tolist()
        taken = set(wanted)
        yield from (i for i in order if i not in taken)
        while True:
            yield from order

    def _seeds(self, samples: Sequence[Sample], numbers: Any) -> list[list[int]]:
        """By a group's number in the step, whichever rank rolls it out."""
        step = self.drawn_step
        return [
            [rollout_seed(self.args.seed, f"{step}/{n}/{sample.id}", j) for j in range(self._drawn)]
            for sample, n in zip(samples, numbers, strict=True)
        ]

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Trainer's; what was drawn for steps that do not come any more is waited for."""
        output = super().train(*args, **kwargs)
        if self._ahead is not None:
            self._ahead.close()
        return output


def _varies(record: _Record) -> bool:
    return bool(np.std([score.reward for score in record[3]]) > EPSILON)
