"""How an episode begins: what stands where, and when things will happen."""

import math

import numpy as np

from tiny.sim.stage import Stage
from tiny.sim.world import COLOURS, COLUMNS, COPIES, KINDS, ROWS, TRAY_FLOOR, TRAY_HALF

Spot = tuple[float, float]


def timetable(rng: np.random.Generator, frames: int, count: int) -> list[tuple[int, int]]:
    """(idle frames before, frames of the event) of `count` events, then the idle end."""
    room = frames - 2
    lengths = [1] * count
    spare = room - count
    for i in range(count):
        if spare > 0 and rng.random() < 0.5:
            lengths[i], spare = 2, spare - 1
    idle = [0] * (count + 1)
    for _ in range(spare):
        idle[int(rng.integers(count + 1))] += 1
    idle[-1] += 1
    return list(zip(idle, [*lengths, 0], strict=True))


def furnish(s: Stage, rng: np.random.Generator, count: int, stack_share: float) -> None:
    """Sets `count` objects on the table, some of them on a cube."""
    slots = [(x, y) for y in ROWS for x in COLUMNS]
    order = rng.permutation(len(slots))
    pairs = [(k, c) for k in KINDS for c in COLOURS]
    used: dict[str, int] = {}
    placed: list[tuple[int, str, Spot]] = []
    for pick in rng.permutation(len(pairs)):
        kind, colour = pairs[int(pick)]
        if len(placed) == count:
            break
        if used.get(kind, 0) == COPIES:
            continue
        used[kind] = used.get(kind, 0) + 1
        yaw = float(rng.uniform(-0.35, 0.35))
        if kind == "mug":
            yaw = float(rng.choice([-0.4, 0.4, math.pi - 0.4, math.pi + 0.4]))
        bases = [p for p in placed if p[1] == "cube"]
        stack = kind in ("cube", "can", "mug", "bowl") and len(bases) == 1
        if stack and rng.random() < stack_share:
            base = bases[0]
            index = s.add(colour, kind, base[2], floor(s, base[2]) + 0.068, yaw)
            placed.append((index, "stacked", base[2]))
            placed = [(i, "under", p) if i == base[0] else (i, k, p) for i, k, p in placed]
            continue
        x, y = slots[int(order[len(placed)])]
        jitter = 0.008 if floor(s, (x, y)) else 0.015
        spot = (x + rng.uniform(-jitter, jitter), y + rng.uniform(-jitter, jitter))
        placed.append((s.add(colour, kind, spot, floor(s, spot), yaw), kind, spot))
    s.settle(30 if any(k == "stacked" for _, k, _ in placed) else 12)


def floor(s: Stage, spot: Spot) -> float:
    """Height of what an object at `spot` stands on: the tray or the table."""
    x = s.tray_x
    inside = x is not None and abs(spot[0] - x) < TRAY_HALF[0] and abs(spot[1]) < TRAY_HALF[1]
    return TRAY_FLOOR if inside else 0.0
