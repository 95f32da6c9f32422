"""Episodes: a drawn scene, scripted actions of the arm, and their pictures."""

from __future__ import annotations

import numpy as np

from tiny.sim import rle
from tiny.sim.actions import act
from tiny.sim.furnish import furnish, timetable
from tiny.sim.picture import bare_table, jpeg, shrink
from tiny.sim.records import STEP_S, Episode, SimConfig
from tiny.sim.stage import Stage
from tiny.sim.take import Take, Unusable
from tiny.sim.world import COLUMNS, HALF_HEIGHT, TRAY


def episode(stage: Stage, seed: int, config: SimConfig) -> Episode:
    """The episode of a seed: attempts follow one another until one is usable."""
    for attempt in range(60):
        rng = np.random.default_rng(np.random.SeedSequence([seed, attempt]))
        try:
            return _shoot(Take(stage, config, rng), seed)
        except Unusable:
            continue
    raise RuntimeError(f"no usable episode for seed {seed} and {config} in 60 attempts")


def _shoot(take: Take, seed: int) -> Episode:
    c, s, rng = take.config, take.stage, take.rng
    s.clear(rng, bool(rng.random() < c.shadows), c.clutter)
    if rng.random() < c.tray:
        s.set_tray(COLUMNS[0] if rng.random() < 0.5 else COLUMNS[-1], rng)
    furnish(s, rng, int(rng.integers(c.objects[0], c.objects[1] + 1)), c.stack)
    pose, target = "home", None
    if c.frames == 1:
        pose, target = _still_pose(take)
    else:
        take.home()
    take.snap()
    if c.frames > 1:
        count = int(rng.integers(c.events[0], c.events[1] + 1))
        for idle, frames in timetable(rng, c.frames, count):
            for _ in range(idle):
                take.home()
                take.snap()
            if frames:
                _try_act(take, frames)
    return _develop(take, seed, pose, target)


def _still_pose(take: Take) -> tuple[str, str | None]:
    s, rng = take.stage, take.rng
    index = int(rng.choice(list(s.names)))
    covered = {s.names[b] for b in s.supports().values()}
    draw = rng.random()
    if draw < 0.5 or s.names[index] in covered:
        take.home()
        return "home", None
    colour, kind = s.names[index]
    if draw < 0.8:
        top = s.xyz(index)
        top[2] += HALF_HEIGHT[kind] + rng.uniform(0.03, 0.07)
        if s.pose(top, 0.04) > 0.02:
            raise Unusable
        return "over", f"{colour} {kind}"
    take.lift(index, (float(s.xyz(index)[0]), float(s.xyz(index)[1])))
    return "hold", f"{colour} {kind}"


def _try_act(take: Take, frames: int) -> None:
    """Act out one event; an attempt that fails (an object falls, say) is undone and drawn again."""
    data, count = take.stage.world.data, len(take.shots)
    state = data.qpos.copy(), data.qvel.copy()
    share = np.array([0.5, 0.5]) if take.stage.tray_x is None else np.array([0.7, 0.3])
    kind = str(take.rng.choice(["place", "push"], p=share))
    bad = ["wrong", "missed", "missed", "dropped"] if kind == "place" else ["missed"]
    bad += ["outside"] if take.stage.tray_x is not None and kind == "place" else []
    outcome = "done"
    if take.rng.random() < take.config.failures * (1 if kind == "place" else 0.4):
        outcome = str(take.rng.choice(bad))
    for attempt in range(24):
        try:  # the drawn kind first, else hard kinds would become rare; then any
            if attempt == 16:
                kind, outcome = "place", "done"
            return act(take, frames, kind, outcome)
        except Unusable:
            del take.shots[count:]
            take.stage.held = None
            data.qpos[:], data.qvel[:] = state
    raise Unusable


def _develop(take: Take, seed: int, pose: str, target: str | None) -> Episode:
    """Render the pictures of all states that the take has noted."""
    s, c = take.stage, take.config
    frames, states, grip, free = [], [], [], []
    tray = None
    for i, (qpos, held) in enumerate(take.shots):
        ends = i in (0, len(take.shots) - 1)
        s.world.data.qpos[:] = qpos
        s.held = held
        look = s.look()
        state = s.things(look, ends)
        if i == 0 and any(t.pixels < c.min_pixels for t in state):
            raise Unusable
        if i == 0 and s.tray_x is not None:
            tray = rle.encode(shrink(look.owner == TRAY, 1))
        if ends:
            free.append(bare_table(look))
        frames.append(jpeg(look.rgb))
        states.append(state)
        grip.append(s.project(s.grip_point))
    return Episode(
        id=f"sim-{seed}",
        seed=seed,
        frames=frames,
        times_s=[STEP_S * i for i in range(len(frames))],
        states=states,
        tray=tray,
        tray_side=None if s.tray_x is None else ("left" if s.tray_x < 0 else "right"),
        free=free,
        events=take.events,
        gripper=grip,
        gripper_target=target,
        pose=pose,
    )
