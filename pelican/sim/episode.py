"""Episodes: a drawn scene, scripted actions of the arm, and what the physics made of them."""

import math
from dataclasses import dataclass, field

import numpy as np

from pelican.sim import rle
from pelican.sim.furnish import Spot, floor, furnish, timetable
from pelican.sim.records import STEP_S, Episode, Event, SimConfig, Thing
from pelican.sim.stage import Stage, Vector, shrink
from pelican.sim.world import COLUMNS, HALF_HEIGHT, ROWS

_MOVED_CM = 3.0
_CARRY = 0.075  # height of a carried object's bottom


class Unusable(Exception):
    """A draw that shows too little or went astray; the next attempt draws anew."""


def episode(stage: Stage, seed: int, config: SimConfig) -> Episode:
    """The episode of a seed: attempts follow one another until one is usable."""
    for attempt in range(60):
        rng = np.random.default_rng(np.random.SeedSequence([seed, attempt]))
        try:
            return _Take(stage, seed, config, rng).shoot()
        except Unusable:
            continue
    raise RuntimeError(f"no usable episode for seed {seed} and {config} in 60 attempts")


@dataclass
class _Take:
    """One attempt at an episode."""

    stage: Stage
    seed: int
    config: SimConfig
    rng: np.random.Generator
    shots: list[tuple[Vector, int | None]] = field(default_factory=list)  # qpos, held
    events: list[Event] = field(default_factory=list)

    # -- the whole ---------------------------------------------------------------------------

    def shoot(self) -> Episode:
        c, s, rng = self.config, self.stage, self.rng
        s.clear(rng, bool(rng.random() < c.shadows), c.clutter)
        if rng.random() < c.tray:
            s.set_tray(COLUMNS[0] if rng.random() < 0.5 else COLUMNS[-1], rng)
        furnish(s, rng, int(rng.integers(c.objects[0], c.objects[1] + 1)), c.stack)
        pose, target = "home", None
        if c.frames == 1:
            pose, target = self._still_pose()
        else:
            self._home()
        self._snap()
        if c.frames > 1:
            count = int(rng.integers(c.events[0], c.events[1] + 1))
            for idle, frames in timetable(rng, c.frames, count):
                for _ in range(idle):
                    self._home()
                    self._snap()
                if frames:
                    self._try_act(frames)
        return self._develop(pose, target)

    # -- pictures ----------------------------------------------------------------------------

    def _snap(self) -> None:
        """Notes the state for a picture; pictures are made once the episode stands."""
        self.shots.append((self.stage.world.data.qpos.copy(), self.stage.held))

    def _develop(self, pose: str, target: str | None) -> Episode:
        """Renders every noted state."""
        s, c = self.stage, self.config
        frames, states, grip, free = [], [], [], []
        tray = None
        for i, (qpos, held) in enumerate(self.shots):
            ends = i in (0, len(self.shots) - 1)
            s.world.data.qpos[:] = qpos
            s.held = held
            look = s.look()
            state = s.things(look, ends)
            if i == 0 and any(t.pixels < c.min_pixels for t in state):
                raise Unusable
            if i == 0 and s.tray_x is not None:
                tray = rle.encode(shrink(look.owner == -3, 1))
            if ends:
                free.append(s.free(look))
            frames.append(s.jpeg(look))
            states.append(state)
            grip.append(s.project(s.grip_point))
        return Episode(
            id=f"sim-{self.seed}",
            seed=self.seed,
            frames=frames,
            times_s=[STEP_S * i for i in range(len(frames))],
            states=states,
            tray=tray,
            tray_side=None if s.tray_x is None else ("left" if s.tray_x < 0 else "right"),
            free=free,
            events=self.events,
            gripper=grip,
            gripper_target=target,
            pose=pose,
        )

    # -- the arm -----------------------------------------------------------------------------

    def _home(self) -> None:
        p = [self.rng.uniform(-0.2, 0.2), self.rng.uniform(0.25, 0.30), self.rng.uniform(0.1, 0.18)]
        self.stage.pose(np.array(p), 0.04)

    def _still_pose(self) -> tuple[str, str | None]:
        s, rng = self.stage, self.rng
        index = int(rng.choice(list(s.names)))
        covered = {s.names[b] for b in s._supports().values()}
        draw = rng.random()
        if draw < 0.5 or s.names[index] in covered:
            self._home()
            return "home", None
        colour, kind = s.names[index]
        if draw < 0.8:
            top = s.xyz(index)
            top[2] += HALF_HEIGHT[kind] + rng.uniform(0.03, 0.07)
            if s.pose(top, 0.04) > 0.02:
                raise Unusable
            return "over", f"{colour} {kind}"
        self._lift(index, (float(s.xyz(index)[0]), float(s.xyz(index)[1])))
        return "hold", f"{colour} {kind}"

    def _lift(self, index: int, spot: Spot) -> None:
        """Holds an object over a spot."""
        s = self.stage
        kind = s.names[index][1]
        s.held = index
        z = _CARRY + s.grip_height(kind) + self.rng.uniform(0, 0.03)
        width = {"cube": 0.034, "ball": 0.04, "can": 0.036, "mug": 0.038}.get(kind, 0.018)
        if s.pose(np.array([spot[0], spot[1], z]), width) > 0.02:
            raise Unusable

    def _release(self, spot: Spot, drop: float, steps: int) -> None:
        """Lets the held object go with its bottom `drop` metres above the ground."""
        s = self.stage
        assert s.held is not None
        index, kind = s.held, s.names[s.held][1]
        s.held = None
        z = floor(self.stage, spot) + drop + HALF_HEIGHT[kind]
        s.world.place(index, (spot[0], spot[1], z), float(self.rng.uniform(-0.3, 0.3)))
        s.settle(steps)

    # -- actions -----------------------------------------------------------------------------

    def _free_spots(self, tray: bool | None = None) -> list[Spot]:
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

    def _try_act(self, frames: int) -> None:
        """One event; a draw that goes astray is undone and drawn anew."""
        data, count = self.stage.world.data, len(self.shots)
        state = data.qpos.copy(), data.qvel.copy()
        share = np.array([0.5, 0.5]) if self.stage.tray_x is None else np.array([0.7, 0.3])
        kind = str(self.rng.choice(["place", "push"], p=share))
        bad = ["wrong", "missed", "missed", "dropped"] if kind == "place" else ["missed"]
        bad += ["outside"] if self.stage.tray_x is not None and kind == "place" else []
        outcome = "done"
        if self.rng.random() < self.config.failures * (1 if kind == "place" else 0.4):
            outcome = str(self.rng.choice(bad))
        for attempt in range(24):
            try:  # the drawn kind first, so that hard ones are not drawn away; then any
                if attempt == 16:
                    kind, outcome = "place", "done"
                return self._act(frames, kind, outcome)
            except Unusable:
                del self.shots[count:]
                self.stage.held = None
                data.qpos[:], data.qvel[:] = state
        raise Unusable

    def _act(self, frames: int, kind: str, outcome: str) -> None:
        s, rng = self.stage, self.rng
        before = {t.name: t for t in s.things(None, False)}
        start = STEP_S * len(self.shots)
        loose = [
            i for i in s.names if s.names[i] not in {s.names[b] for b in s._supports().values()}
        ]
        done = {e.object for e in self.events if e.outcome != "missed"}
        fresh = [i for i in loose if " ".join(s.names[i]) not in done] or loose
        index = int(rng.choice(fresh))
        name = " ".join(s.names[index])
        outside = [i for i in loose if not before[" ".join(s.names[i])].in_tray]
        goal = "table"
        tray = kind == "place" and s.tray_x is not None
        if tray and outside and self._free_spots(True) and rng.random() < 0.85:
            goal, index = "tray", int(rng.choice([i for i in fresh if i in outside] or outside))
        name = " ".join(s.names[index])
        if kind == "push" and rng.random() < 0.7:
            tall = [i for i in fresh if s.names[i][1] in ("bottle", "can")]
            if tall:
                index = int(rng.choice(tall))
                name = " ".join(s.names[index])
        asked = name
        if outcome == "outside" and goal != "tray":
            raise Unusable
        if outcome == "wrong":
            others = [i for i in s.names if i != index]
            if goal == "tray":
                others = [i for i in others if i in outside]
            if not others:
                raise Unusable
            asked = " ".join(s.names[int(rng.choice(others))])
        if kind == "push" and before[name].on is not None:
            raise Unusable
        if kind == "push":
            outcome = self._push(index, frames, outcome)
            goal = "right" if outcome.endswith("right") else "left"
            outcome = outcome.split("-")[0]
        else:
            self._place(index, frames, goal, outcome)
        self._conclude(asked, goal, kind, index, outcome, start, before)

    def _conclude(
        self,
        asked: str,
        goal: str,
        kind: str,
        index: int,
        outcome: str,
        start: float,
        before: dict[str, Thing],
    ) -> None:
        s = self.stage
        name = " ".join(s.names[index])
        moved = []
        for i in s.names:
            old = before[" ".join(s.names[i])]
            gap = np.linalg.norm(s.xyz(i) * 100 - np.array(old.xyz))
            if gap > _MOVED_CM:
                moved.append(" ".join(s.names[i]))
        after = s.xyz(index)
        inside = s.in_tray(after)
        tipped = self._tipped(index)
        if abs(after[0]) > 0.27 or not -0.22 < after[1] < 0.25 or after[2] < 0:
            raise Unusable
        if (outcome == "missed" and moved) or (outcome != "missed" and moved != [name]):
            raise Unusable
        if (
            kind == "place"
            and outcome in ("done", "wrong")
            and (tipped or inside != (goal == "tray"))
        ):
            raise Unusable
        if outcome in ("dropped", "outside") and inside:
            raise Unusable
        if kind == "push" and outcome == "done" and tipped:
            outcome = "knocked"
        self.events.append(
            Event(
                asked,
                goal,
                kind,
                name,
                outcome,
                start,
                STEP_S * len(self.shots),
                s.project(np.array(before[name].xyz) / 100),
                s.project(after),
                moved,
            )
        )

    def _tipped(self, index: int) -> bool:
        a = self.stage.world.qpos[index]
        _, qx, qy, _ = self.stage.world.data.qpos[a + 3 : a + 7]
        kind = self.stage.names[index][1]
        return kind not in ("ball", "cube") and bool(1 - 2 * (qx * qx + qy * qy) < 0.7)

    def _place(self, index: int, frames: int, goal: str, outcome: str) -> None:
        s, rng = self.stage, self.rng
        source = (float(s.xyz(index)[0]), float(s.xyz(index)[1]))
        spots = self._free_spots(goal == "tray")
        if outcome == "outside":
            spots = [p for p in self._free_spots(False) if abs(p[0] - (s.tray_x or 0)) < 0.2]
        spots = [p for p in spots if math.dist(p, source) > 0.08]
        if not spots:
            raise Unusable
        target = spots[int(rng.integers(len(spots)))]
        target = (target[0] + rng.uniform(-0.008, 0.008), target[1] + rng.uniform(-0.01, 0.01))
        if outcome == "missed":
            for k in range(frames):
                top = s.xyz(index)
                top[2] += HALF_HEIGHT[s.names[index][1]] + 0.02 + 0.06 * k
                s.pose(top, 0.005)
                self._snap()
            self._home()
            return
        for k in range(frames):
            part = rng.uniform(0.0, 1.0) if frames == 1 else (0.0, 1.0)[k]
            if outcome == "dropped":
                part *= 0.5
            at = tuple(a + (b - a) * part for a, b in zip(source, target, strict=True))
            self._lift(index, (at[0], at[1]))
            self._snap()
        if outcome == "dropped":
            options = [p for p in self._free_spots(False) if math.dist(p, source) > 0.08]
            if not options:
                raise Unusable
            target = min(options, key=lambda p: math.dist(p, target))
            self._home()
            self._release(target, rng.uniform(0.05, 0.10), 160)
            return
        self._home()
        self._release(target, 0.001, 30)

    def _push(self, index: int, frames: int, outcome: str) -> str:
        """Pushes sideways by one column or fails to reach; returns outcome and direction."""
        s, rng = self.stage, self.rng
        p = s.xyz(index)
        sides = []
        for sign in (-1, 1):
            free = self._free_spots(False)
            end = (p[0] + sign * 0.132, p[1])
            clear = any(math.dist(f, end) < 0.05 for f in free)
            back = all(
                i == index or math.dist(s.xyz(i)[:2], (p[0] - sign * 0.1, p[1])) > 0.085
                for i in s.names
            )
            if clear and back and not s.in_tray(p):
                sides.append(sign)
        if not sides:
            raise Unusable
        sign = int(rng.choice(sides))
        kind = s.names[index][1]
        half = {"cube": 0.036, "ball": 0.041, "bowl": 0.05, "mug": 0.04}.get(kind, 0.037)
        knock = kind in ("can", "bottle") and rng.random() < 0.6
        z = HALF_HEIGHT[kind] * (1.75 if knock else 0.7) + 0.008
        near = np.array([p[0] - sign * (half + 0.03), p[1], z])
        for _ in range(frames):
            if s.pose(near, 0.0) > 0.02:
                raise Unusable
            self._snap()
        side = "right" if sign > 0 else "left"
        if outcome != "done":
            self._home()
            return f"missed-{side}"
        stop = near.copy()
        stop[0] += sign * ((0.06 if knock else 0.132) + 0.016)
        s.sweep(near, stop, 70)
        s.settle(110)
        self._home()
        return f"done-{side}"
