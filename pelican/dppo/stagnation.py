"""When RL stops: the success rate of each task is extreme (all or nothing) or has stopped changing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pelican.config.recipe import RlConfig, StopConfig

StopReason = Literal["stagnation", "max_steps"]


@dataclass(frozen=True)
class Stagnation:
    """The stagnation of every task seen so far (TS_i of `StagnationTracker`) and its mean, all in
    [0, 1].
    """

    tasks: dict[str, float]
    mean: float


class StagnationTracker:
    """TS_i = ½·|2·SR_i - 1| + ½·(1 - min(1, |ΔSR_i|/δ)); RL stops at mean TS >= threshold.

    SR_i is an exponential moving average over evaluation windows (weight `ema` on the newest) and
    ΔSR_i its change in the task's last window. A task seen once has no ΔSR yet and counts as
    moving fully: one window is no evidence of standing still.
    """

    def __init__(self, config: StopConfig, *, min_steps: int, max_steps: int) -> None:
        self.config = config
        self.min_steps = min_steps
        self.max_steps = max_steps
        self._rates: dict[str, float] = {}
        self._changes: dict[str, float | None] = {}

    @classmethod
    def of(cls, config: RlConfig) -> StagnationTracker:
        """The tracker of an RL phase."""
        return cls(config.stop, min_steps=config.min_steps, max_steps=config.max_steps)

    def update(self, window: Mapping[str, float]) -> Stagnation:
        """Add one window of success rates in [0, 1] by task; a task that is absent keeps its state.

        Raises:
            ValueError: A rate is no number between 0 and 1.
        """
        for task, rate in window.items():
            if not (math.isfinite(rate) and 0 <= rate <= 1):
                raise ValueError(f"success rate {rate} of task {task!r} is outside 0 to 1")
        for task, rate in window.items():
            before = self._rates.get(task)
            weight = self.config.ema
            now = rate if before is None else weight * rate + (1 - weight) * before
            self._rates[task] = now
            self._changes[task] = None if before is None else now - before
        return self.value()

    def value(self) -> Stagnation:
        """As of the last window; mean 0 before the first."""
        tasks = {task: self._stagnation(task) for task in sorted(self._rates)}
        return Stagnation(tasks, sum(tasks.values()) / len(tasks) if tasks else 0.0)

    def stop_reason(self, step: int) -> StopReason | None:
        """Why RL ends after `step` optimiser steps, or None if it goes on."""
        if step >= self.max_steps:
            return "max_steps"
        if step < self.min_steps or not self._rates:
            return None
        # A hair of tolerance, so that a mean of exactly the threshold stops.
        return "stagnation" if self.value().mean >= self.config.threshold - 1e-12 else None

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps, as JSON."""
        return {"rates": dict(self._rates), "changes": dict(self._changes)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`."""
        self._rates = dict(state["rates"])
        self._changes = dict(state["changes"])

    def _stagnation(self, task: str) -> float:
        extreme = abs(2 * self._rates[task] - 1)
        change = self._changes[task]
        moving = 1.0 if change is None else min(1.0, abs(change) / self.config.delta)
        return 0.5 * extreme + 0.5 * (1 - moving)
