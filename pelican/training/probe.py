"""Held-out questions that the policy answers while RL goes on: drawn once, asked every few steps."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from pelican.config.recipe import RlConfig
from pelican.data.entries import Entry
from pelican.dppo.stagnation import ProbeTracker
from pelican.training.grpo import Group


@dataclass(frozen=True)
class Answered:
    """A question of the probe: how often it was answered right, and what that cost in tokens."""

    family: str
    sample_id: str
    success_rate: float
    completions: int
    tokens: int
    prompt_tokens: int

    @classmethod
    def of(cls, group: Group) -> Answered:
        """What became of one question."""
        return cls(
            family=group.sample.family.value,
            sample_id=group.sample.id,
            success_rate=sum(score.success for score in group.scores) / len(group.scores),
            completions=len(group.completions),
            tokens=sum(map(len, group.completions)),
            prompt_tokens=len(group.prompt.ids),
        )


def draw_probe(entries: Sequence[Entry], prompts: int, seed: int) -> list[Entry]:
    """`prompts` questions of each family, the same for a seed in every loop, in the pool's order.

    A family with a single question is left out: it has no spread by which to tell noise.
    """
    families: defaultdict[str, list[int]] = defaultdict(list)
    for number, entry in enumerate(entries):
        families[entry.family.value].append(number)
    chosen: list[int] = []
    for index, name in enumerate(sorted(families)):
        numbers = families[name]
        if len(numbers) > 1:
            order = np.random.default_rng((seed, index)).permutation(len(numbers))
            chosen += [numbers[place] for place in order[:prompts]]
    return [entries[number] for number in sorted(chosen)]


class HeldOutProbe:
    """Asks when a probe is due, and keeps what came of it. The same on every rank."""

    def __init__(
        self,
        config: RlConfig,
        ask: Callable[[], list[Answered]],
        gather: Callable[[Any], list[Any]],
    ) -> None:
        """Ask nothing yet.

        Args:
            config: the recipe's section `rl`.
            ask: answers this rank's share of the questions by the policy as it is now.
            gather: what every rank gives, on every rank.
        """
        self.tracker = ProbeTracker.of(config)
        self.rows: list[dict[str, Any]] = []
        self._ask, self._gather = ask, gather

    def look(self, step: int) -> Counter[str]:
        """Make the probe after `step` optimiser steps if it is due, and count its tokens. Collective."""
        counts: Counter[str] = Counter()
        if not self.tracker.is_due(step):
            return counts
        answered: list[Answered] = [one for share in self._gather(self._ask()) for one in share]
        rates: defaultdict[str, dict[str, float]] = defaultdict(dict)
        for one in sorted(answered, key=lambda one: one.sample_id):
            rates[one.family][one.sample_id] = one.success_rate
            counts["probe_completions"] += one.completions
            counts["probe_tokens"] += one.tokens
            counts["probe_prompt_tokens"] += one.prompt_tokens
        self.tracker.update(step, rates)
        self.rows += [
            {"step": step, "family": name, "success_rate": float(np.mean(list(found.values())))}
            for name, found in sorted(rates.items())
        ]
        return counts

    def write(self, path: Path) -> None:
        """Success of every probe by family, as a Parquet file."""
        schema = {"step": pl.Int64, "family": pl.String, "success_rate": pl.Float64}
        pl.DataFrame(self.rows, schema=schema).write_parquet(path)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps, as JSON."""
        return {"rows": self.rows, "tracker": self.tracker.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        self.rows = list(state["rows"])
        self.tracker.load_state_dict(state["tracker"])
