"""When RL stops: success is extreme (all or nothing) or has stopped changing, or a probe stands still."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean, variance
from typing import Any, Literal, Self

from pelican.config.recipe import RlConfig, StopConfig

StopReason = Literal["stagnation", "probe", "max_steps"]


@dataclass(frozen=True)
class Stagnation:
    """The stagnation of every task seen so far (TS_i of `StagnationTracker`) and its mean, all in
    [0, 1].
    """

    tasks: dict[str, float]
    mean: float


class StopRule(ABC):
    """When an RL phase of `min_steps` to `max_steps` optimiser steps ends."""

    def __init__(self, config: StopConfig, *, min_steps: int, max_steps: int) -> None:
        self.config = config
        self.min_steps = min_steps
        self.max_steps = max_steps

    @classmethod
    def of(cls, config: RlConfig) -> Self:
        """The rule of an RL phase."""
        return cls(config.stop, min_steps=config.min_steps, max_steps=config.max_steps)

    def stop_reason(self, step: int) -> StopReason | None:
        """Why RL ends after `step` optimiser steps, or None if it goes on."""
        if step >= self.max_steps:
            return "max_steps"
        return self.found() if step >= self.min_steps else None

    @abstractmethod
    def found(self) -> StopReason | None:
        """The reason for which RL may end by what was seen so far, or None."""


class StagnationTracker(StopRule):
    """TS_i = ½·X_i + ½·(1 - min(1, |ΔSR_i|/δ)); RL stops at mean TS >= threshold.

    SR_i is an exponential moving average over evaluation windows (weight `ema` on the newest) and
    ΔSR_i its change in the task's last window. A task seen once has no ΔSR yet and counts as
    moving fully: one window is no evidence of standing still.

    X_i, how extreme success is, is |2·SR_i - 1|; with `rl.stop.of=samples` the mean over the samples
    of the task of that of each, averaged over windows in the same way. A buffer without mastered samples
    has tasks whose means are near ½ though their samples are not, so that the first hardly reaches the
    paper's 0.7. The paper gives no formula; by samples is our reading of it.
    """

    def __init__(self, config: StopConfig, *, min_steps: int, max_steps: int) -> None:
        super().__init__(config, min_steps=min_steps, max_steps=max_steps)
        self._rates: dict[str, float] = {}
        self._changes: dict[str, float | None] = {}
        self._extremes: dict[str, dict[str, float]] = {}  # task -> sample -> its |2·SR - 1|

    def update(
        self, window: Mapping[str, float], samples: Mapping[str, Mapping[str, float]] | None = None
    ) -> Stagnation:
        """Add one window of success rates in [0, 1] by task; a task that is absent keeps its state.

        Args:
            window: the mean rate of each task.
            samples: task -> sample -> its rate, for `rl.stop.of=samples`.

        Raises:
            ValueError: A rate is no number between 0 and 1.
        """
        for task, rate in window.items():
            if not (math.isfinite(rate) and 0 <= rate <= 1):
                raise ValueError(f"success rate {rate} of task {task!r} is outside 0 to 1")
        for task, rate in window.items():
            before = self._rates.get(task)
            self._rates[task] = now = self._averaged(before, rate)
            self._changes[task] = None if before is None else now - before
        for task, rates in (samples or {}).items():
            known = self._extremes.setdefault(task, {})
            for sample, rate in rates.items():
                known[sample] = self._averaged(known.get(sample), abs(2 * rate - 1))
        return self.value()

    def _averaged(self, before: float | None, value: float) -> float:
        weight = self.config.ema
        return value if before is None else weight * value + (1 - weight) * before

    def value(self) -> Stagnation:
        """As of the last window; mean 0 before the first."""
        tasks = {task: self._stagnation(task) for task in sorted(self._rates)}
        return Stagnation(tasks, sum(tasks.values()) / len(tasks) if tasks else 0.0)

    def found(self) -> StopReason | None:
        # A hair of tolerance, so that a mean of exactly the threshold stops.
        stands_still = self.value().mean >= self.config.threshold - 1e-12
        return "stagnation" if self._rates and stands_still else None

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps, as JSON."""
        return {
            "rates": dict(self._rates),
            "changes": dict(self._changes),
            "extremes": {task: dict(known) for task, known in self._extremes.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`."""
        self._rates = dict(state["rates"])
        self._changes = dict(state["changes"])
        # Checkpoints of before samples were watched have none.
        self._extremes = {task: dict(known) for task, known in state.get("extremes", {}).items()}

    def _stagnation(self, task: str) -> float:
        known = self._extremes.get(task)
        extreme = fmean(known.values()) if known else abs(2 * self._rates[task] - 1)
        change = self._changes[task]
        moving = 1.0 if change is None else min(1.0, abs(change) / self.config.delta)
        return 0.5 * extreme + 0.5 * (1 - moving)


# A held-out probe: the same questions, which RL never practises, asked again and again.

Rates = Mapping[str, Mapping[str, float]]  # task -> question -> success rate


@dataclass(frozen=True)
class Trend:
    """How held-out success moves: the slope and its standard error, in success rate a step."""

    slope: float
    error: float

    @property
    def rises(self) -> bool:
        """Whether success rises by more than the standard error of its slope."""
        return self.slope > self.error


class ProbeTracker(StopRule):
    """RL stops when the slope of held-out success over the last `windows` probes is within its error.

    The slope is the mean over tasks of the mean over their questions of each question's least squares
    slope. Its standard error is of the questions' slopes: they are the same in every probe, so that how
    hard they are drops out and what is left is noise of sampling, and of which questions were drawn.
    """

    def __init__(self, config: StopConfig, *, min_steps: int, max_steps: int) -> None:
        super().__init__(config, min_steps=min_steps, max_steps=max_steps)
        self._probes: list[tuple[int, Rates]] = []

    def is_due(self, step: int) -> bool:
        """Whether a probe is wanted after `step` optimiser steps, and was not made yet."""
        made = bool(self._probes) and self._probes[-1][0] >= step
        return step % self.config.probe.steps == 0 and not made

    def update(self, step: int, rates: Rates) -> None:
        """Add the probe that was made after `step` optimiser steps: the same questions each time."""
        self._probes.append((step, {task: dict(found) for task, found in rates.items()}))

    def trend(self) -> Trend | None:
        """Over the newest `windows` probes; None while there are fewer."""
        newest = self._probes[-self.config.probe.windows :]
        if len(newest) < self.config.probe.windows:
            return None
        middle = fmean(step for step, _ in newest)
        spread = sum((step - middle) ** 2 for step, _ in newest)
        means, errors = [], []
        for task, questions in newest[-1][1].items():
            slopes = [
                sum((step - middle) * rates[task][name] for step, rates in newest) / spread
                for name in questions
            ]
            means.append(fmean(slopes))
            errors.append(variance(slopes) / len(slopes) if len(slopes) > 1 else 0.0)
        return Trend(fmean(means), math.sqrt(sum(errors)) / len(means))

    def found(self) -> StopReason | None:
        trend = self.trend()
        return "probe" if trend and not trend.rises else None

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps, as JSON."""
        return {"probes": [[step, rates] for step, rates in self._probes]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`."""
        self._probes = [(step, rates) for step, rates in state["probes"]]
