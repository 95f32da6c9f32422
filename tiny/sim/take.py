"""One attempt at an episode: the states that were noted, and the motions of the arm."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from tiny.sim.furnish import Spot, floor
from tiny.sim.records import Event, SimConfig
from tiny.sim.stage import Stage, Vector
from tiny.sim.world import COLUMNS, HALF_HEIGHT, ROWS

_CARRY = 0.075  # height of a carried object's bottom


class Unusable(Exception):
    """This attempt shows too little, or an action failed physically; the next one draws again."""


@dataclass
class Take:
    """One attempt while it is acted: the stage, its random numbers, and the states noted so far."""

    stage: Stage
    config: SimConfig
    rng: np.random.Generator
    shots: list[tuple[Vector, int | None]] = field(default_factory=list)  # qpos, held
    events: list[Event] = field(default_factory=list)

    def snap(self) -> None:
        """Note the state; its picture is rendered only once the whole attempt is usable."""
        self.shots.append((self.stage.world.data.qpos.copy(), self.stage.held))

    def home(self) -> None:
        """Move the open gripper to a drawn place behind the table's middle."""
        p = [self.rng.uniform(-0.2, 0.2), self.rng.uniform(0.25, 0.30), self.rng.uniform(0.1, 0.18)]
        self.stage.pose(np.array(p), 0.04)

    def lift(self, index: int, spot: Spot) -> None:
        """Holds an object over a spot."""
        s = self.stage
        kind = s.names[index][1]
        s.held = index
        z = _CARRY + s.grip_height(kind) + self.rng.uniform(0, 0.03)
        width = {"cube": 0.034, "ball": 0.04, "can": 0.036, "mug": 0.038}.get(kind, 0.018)
        if s.pose(np.array([spot[0], spot[1], z]), width) > 0.02:
            raise Unusable

    def release(self, spot: Spot, drop: float, steps: int) -> None:
        """Lets the held object go with its bottom `drop` metres above the ground."""
        s = self.stage
        assert s.held is not None
        index, kind = s.held, s.names[s.held][1]
        s.held = None
        z = floor(self.stage, spot) + drop + HALF_HEIGHT[kind]
        s.world.place(index, (spot[0], spot[1], z), float(self.rng.uniform(-0.3, 0.3)))
        s.settle(steps)

    def free_spots(self, tray: bool | None = None) -> list[Spot]:
        """Spots of the grid that no object is near: all, those in the tray, or those outside."""
        s = self.stage
        out = []
        for x in COLUMNS:
            for y in ROWS:
                if tray is not None and tray != (floor(self.stage, (x, y)) > 0):
                    continue
                gaps = [math.hypot(s.xyz(i)[0] - x, s.xyz(i)[1] - y) for i in s.names]
                if min(gaps) > 0.095:
                    out.append((x, y))
        return out

    def tipped(self, index: int) -> bool:
        """Whether an object that stood upright has fallen over."""
        a = self.stage.world.qpos[index]
        _, qx, qy, _ = self.stage.world.data.qpos[a + 3 : a + 7]
        kind = self.stage.names[index][1]
        return kind not in ("ball", "cube") and bool(1 - 2 * (qx * qx + qy * qy) < 0.7)
