"""What the arm does to an object, and what the physics made of it: the events of an episode."""

from __future__ import annotations

import math

import numpy as np

from tiny.sim.records import STEP_S, Event, Thing
from tiny.sim.take import Take, Unusable
from tiny.sim.world import HALF_HEIGHT

_MOVED_CM = 3.0


def act(take: Take, frames: int, kind: str, outcome: str) -> None:
    """One event in `frames` pictures. Raises Unusable if the draw leads nowhere."""
    s, rng = take.stage, take.rng
    before = {t.name: t for t in s.things(None, False)}
    start = STEP_S * len(take.shots)
    loose = [i for i in s.names if s.names[i] not in {s.names[b] for b in s.supports().values()}]
    done = {e.object for e in take.events if e.outcome != "missed"}
    fresh = [i for i in loose if " ".join(s.names[i]) not in done] or loose
    index = int(rng.choice(fresh))
    name = " ".join(s.names[index])
    outside = [i for i in loose if not before[" ".join(s.names[i])].in_tray]
    goal = "table"
    tray = kind == "place" and s.tray_x is not None
    if tray and outside and take.free_spots(True) and rng.random() < 0.85:
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
        outcome = _push(take, index, frames, outcome)
        goal = "right" if outcome.endswith("right") else "left"
        outcome = outcome.split("-")[0]
    else:
        _place(take, index, frames, goal, outcome)
    _conclude(take, asked, goal, kind, index, outcome, start, before)


def _place(take: Take, index: int, frames: int, goal: str, outcome: str) -> None:
    s, rng = take.stage, take.rng
    source = (float(s.xyz(index)[0]), float(s.xyz(index)[1]))
    spots = take.free_spots(goal == "tray")
    if outcome == "outside":
        spots = [p for p in take.free_spots(False) if abs(p[0] - (s.tray_x or 0)) < 0.2]
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
            take.snap()
        take.home()
        return
    for k in range(frames):
        part = rng.uniform(0.0, 1.0) if frames == 1 else (0.0, 1.0)[k]
        if outcome == "dropped":
            part *= 0.5
        at = tuple(a + (b - a) * part for a, b in zip(source, target, strict=True))
        take.lift(index, (at[0], at[1]))
        take.snap()
    if outcome == "dropped":
        options = [p for p in take.free_spots(False) if math.dist(p, source) > 0.08]
        if not options:
            raise Unusable
        target = min(options, key=lambda p: math.dist(p, target))
        take.home()
        take.release(target, rng.uniform(0.05, 0.10), 160)
        return
    take.home()
    take.release(target, 0.001, 30)


def _push(take: Take, index: int, frames: int, outcome: str) -> str:
    """Pushes sideways by one column or fails to reach; returns outcome and direction."""
    s, rng = take.stage, take.rng
    p = s.xyz(index)
    sides = []
    for sign in (-1, 1):
        free = take.free_spots(False)
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
        take.snap()
    side = "right" if sign > 0 else "left"
    if outcome != "done":
        take.home()
        return f"missed-{side}"
    stop = near.copy()
    stop[0] += sign * ((0.06 if knock else 0.132) + 0.016)
    s.sweep(near, stop, 70)
    s.settle(110)
    take.home()
    return f"done-{side}"


def _conclude(
    take: Take,
    asked: str,
    goal: str,
    kind: str,
    index: int,
    outcome: str,
    start: float,
    before: dict[str, Thing],
) -> None:
    s = take.stage
    name = " ".join(s.names[index])
    moved = []
    for i in s.names:
        old = before[" ".join(s.names[i])]
        gap = np.linalg.norm(s.xyz(i) * 100 - np.array(old.xyz))
        if gap > _MOVED_CM:
            moved.append(" ".join(s.names[i]))
    after = s.xyz(index)
    inside = s.in_tray(after)
    tipped = take.tipped(index)
    if abs(after[0]) > 0.27 or not -0.22 < after[1] < 0.25 or after[2] < 0:
        raise Unusable
    if (outcome == "missed" and moved) or (outcome != "missed" and moved != [name]):
        raise Unusable
    if kind == "place" and outcome in ("done", "wrong") and (tipped or inside != (goal == "tray")):
        raise Unusable
    if outcome in ("dropped", "outside") and inside:
        raise Unusable
    if kind == "push" and outcome == "done" and tipped:
        outcome = "knocked"
    take.events.append(
        Event(
            asked,
            goal,
            kind,
            name,
            outcome,
            start,
            STEP_S * len(take.shots),
            s.project(np.array(before[name].xyz) / 100),
            s.project(after),
            moved,
        )
    )
