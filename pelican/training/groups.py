"""What a step of GRPO is made of: groups of scored completions, and the order of the samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from pelican.engines.prompts import Encoded
from pelican.records import Sample, Score
from pelican.training.down_sampling import largest_variance

# (sample, completion, its number in the group, optimiser step)
Scorer = Callable[[Sample, str, int, int], Score]
EPSILON = 1e-4


@dataclass
class Group:
    """The G completions of one prompt with their scores."""

    sample: Sample
    prompt: Encoded
    completions: list[list[int]]
    scores: list[Score]
    # With which they were drawn, by token; none where the policy of the step drew them.
    logps: list[list[float]] | None = None

    @property
    def rewards(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        return np.array([score.reward for score in self.scores])

    @property
    def has_variance(self) -> bool:
        return bool(self.rewards.std() > EPSILON)

    def down_sampled(self, kept: int) -> Group:
        """The `kept` completions whose rewards vary most."""
        if kept == len(self.completions):
            return self
        rows = largest_variance(self.rewards.tolist(), kept)
        return replace(
            self,
            completions=[self.completions[row] for row in rows],
            scores=[self.scores[row] for row in rows],
            logps=None if self.logps is None else [self.logps[row] for row in rows],
        )

    def advantages(self) -> list[float]:
        """A_i = (R_i - mean) / (std + eps)."""
        rewards = self.rewards
        advantages: list[float] = ((rewards - rewards.mean()) / (rewards.std() + EPSILON)).tolist()
        return advantages


def schedule(samples: int, draws: int, seed: int) -> list[int]:
    """`draws` sample numbers: whole permutations, one after the other.

    Drawn in advance for the whole training, so that a resumed one goes on in the same order; TRL's
    own sampler starts anew at each epoch.
    """
    rounds = -(-draws // samples)
    orders = [np.random.default_rng((seed, i)).permutation(samples) for i in range(rounds)]
    drawn: list[int] = np.concatenate(orders)[:draws].tolist()
    return drawn


@dataclass
class StepRecord:
    """What one rank's optimiser step saw: the groups trained on, and all that were rolled out.

    What was drawn once more with a hint says how hard a sample is no more, so it is apart.
    """

    step: int
    trained: list[Group]
    drawn: list[Group]
    hinted: list[Group] = field(default_factory=list)  # drawn once more, with a hint
