"""Questions about what to do and what comes next."""

import math
from itertools import pairwise

from tiny.sim.ask import PLURAL, Asker, at, spot
from tiny.sim.records import Thing

_TRAY_X = 19.8  # cm from the middle


def _rule(ask: Asker, things: list[Thing]) -> tuple[str, list[Thing]] | None:
    """A rule such as "left to right", and the things by it; None if the picture leaves the order open."""
    e = ask.episode
    side = -_TRAY_X if e.tray_side == "left" else _TRAY_X
    rules = {
        "left to right": lambda t: t.centre[0],
        "right to left": lambda t: 99 - t.centre[0],
        "front to back": lambda t: 99 - t.centre[1],
    }
    if e.tray_side is not None:
        rules["nearest to the tray first"] = lambda t: abs(t.xyz[0] - side) * 1.8
    names = list(rules)
    name = names[int(ask.rng.integers(len(names)))]
    row = sorted(things, key=rules[name])
    keys = [rules[name](t) for t in row]
    if any(b - a < 5 for a, b in pairwise(keys)):
        return None
    return name, row


def _clear(ask: Asker, things: list[Thing]) -> bool:
    """Whether the gripper could take each object now: it shows, and is neither held nor in a stack."""
    covered = {t.on for t in ask.episode.last}
    return all(
        t.pixels >= 40 and not t.held and t.on is None and t.name not in covered for t in things
    )


def planning(ask: Asker) -> None:
    """Step lists and next steps, from the state in the last frame."""
    e = ask.episode
    state = [t for t in e.last if t.pixels >= 40]
    plan = "decision_planning"
    if e.tray_side is not None:
        loose = [t for t in e.last if not t.in_tray]
        groups = [
            (f"{c} objects", [t for t in loose if t.colour == c])
            for c in sorted({t.colour for t in loose})
        ]
        groups += [
            (PLURAL[k], [t for t in loose if t.kind == k]) for k in sorted({t.kind for t in loose})
        ]
        groups.append(("objects", loose))
        groups = [g for g in groups if 1 <= len(g[1]) <= 4 and _clear(ask, g[1])]
        if groups:
            big = [g for g in groups if len(g[1]) > 1] or groups
            _tour(ask, *big[int(ask.rng.integers(len(big)))])
            _next(ask, *groups[int(ask.rng.integers(len(groups)))])
        inside = [t for t in e.last if t.in_tray]
        if len(inside) >= 2 and _clear(ask, inside):
            ruled = _rule(ask, inside)
            if ruled:
                text = f"empty the tray, {ruled[0]}. give the steps."
                _steps(ask, "empty_tray", text, [f"take {t.name} out" for t in ruled[1]], ruled[1])
    for t in state:
        if t.on is not None and ask.episode.pose == "home":
            text = ask.say(
                "goal: pick the {}. what must be moved first?",
                "which object blocks the {} from being picked?",
            )
            ask.text(
                "planning",
                "physical_causal",
                "blocker",
                text.format(t.on),
                t.name,
                f"{t.name} is on {t.on}.",
            )
            break
    target = e.gripper_target
    if len(e.frames) == 1 and e.pose in ("hold", "over") and target is not None:
        others = [t.name for t in state if t.name != target]
        goal = target if ask.rng.random() < 0.6 or not others else ask.say(*others)
        if any(t.in_tray for t in e.last if t.name == goal):
            return  # already there
        end = "place in tray" if e.tray_side else "place on table"
        text = f"goal: move the {goal} to the {'tray' if e.tray_side else 'other side'}. next step?"
        if e.pose == "hold":
            value = end if goal == target else f"put down {target}"
            think = f"the gripper at {at(e.gripper[-1])} holds {target}."
        else:
            value = f"pick {goal}" if goal == target else f"go to {goal}"
            think = f"the gripper at {at(e.gripper[-1])} is over {target}."
        ask.text("planning", plan, "arm_step", text, value, think)


def _steps(ask: Asker, template: str, text: str, steps: list[str], row: list[Thing]) -> None:
    answer = {"kind": "steps", "steps": steps}
    think = " ".join(spot(t) for t in row)
    ask.put("planning", "decision_planning", template, text, answer, "; ".join(steps), think)


def _tour(ask: Asker, group: str, things: list[Thing]) -> None:
    ruled = _rule(ask, things)
    if ruled is None:
        return
    rule, row = ruled
    text = ask.say(
        "put all {} in the tray, {}. give the steps.", "steps to bring all {} to the tray, {}?"
    )
    _steps(ask, "tray_steps", text.format(group, rule), [f"put {t.name} in tray" for t in row], row)


def _next(ask: Asker, group: str, things: list[Thing]) -> None:
    ruled = _rule(ask, things)
    if ruled is None:
        return
    rule, row = ruled
    text = ask.say(
        "goal: all {} in the tray, {}. next step?", "all {} go to the tray, {}. what is next?"
    )
    think = " ".join(spot(t) for t in row[:3])
    value = f"put {row[0].name} in tray"
    ask.text("planning", "decision_planning", "next_step", text.format(group, rule), value, think)


def prediction(ask: Asker) -> None:
    """What comes next, from one picture."""
    e = ask.episode
    target = e.gripper_target
    if e.pose == "over" and target is not None:
        text = ask.say("which object will the gripper pick next?", "what will the arm grasp now?")
        think = f"the gripper is at {at(e.gripper[-1])} over {target}."
        ask.text("prediction", "scene_action_understanding", "will_pick", text, target, think)
    if e.pose == "hold" and target is not None:
        text = ask.say("which object falls if the gripper opens?", "the gripper opens. what falls?")
        think = f"the gripper is at {at(e.gripper[-1])} and holds {target}."
        ask.text("prediction", "physical_causal", "will_drop", text, target, think)
    for t in e.last:
        if t.on is not None:
            text = ask.say(
                "which object falls if the {} is taken away?", "the {} is pulled out. what falls?"
            )
            ask.text(
                "prediction",
                "physical_causal",
                "will_fall",
                text.format(t.on),
                t.name,
                f"{t.name} is on {t.on}.",
            )
            break
    _hit(ask)
    _after(ask)


def _hit(ask: Asker) -> None:
    ground = [t for t in ask.episode.last if t.on is None and not t.held and t.pixels >= 40]
    for t in ask.shuffled(ground):
        word, axis, sign = [("left", 0, -1), ("right", 0, 1), ("back", 1, 1), ("front", 1, -1)][
            int(ask.rng.integers(4))
        ]
        ahead = [o for o in ground if sign * (o.xyz[axis] - t.xyz[axis]) > 5]
        side = [abs(o.xyz[1 - axis] - t.xyz[1 - axis]) for o in ahead]
        if any(3.5 <= s < 10 for s in side):
            continue
        lane = [o for o, s in zip(ahead, side, strict=True) if s < 3.5]
        if not lane:
            continue
        first = min(lane, key=lambda o: abs(o.xyz[axis] - t.xyz[axis]))
        text = ask.say(
            "the {} slides to the {}. what does it hit first?",
            "push the {} to the {}. what does it hit?",
        )
        think = f"{spot(t)} on its way is {spot(first)}"
        ask.text(
            "prediction",
            "physical_causal",
            "will_hit",
            text.format(t.name, word),
            first.name,
            think,
        )
        return


def _after(ask: Asker) -> None:
    e = ask.episode
    state = [t for t in e.last if not t.held and t.on is None]
    if len(state) < 3:
        return
    t, o = ask.shuffled(state)[:2]
    if not _clear(ask, [t, o]):
        return
    rest = [r for r in e.last if r is not t and r is not o]
    near = sorted(rest, key=lambda r: math.dist(r.xyz[:2], o.xyz[:2]))
    if (
        len(near) > 1
        and math.dist(near[1].xyz[:2], o.xyz[:2]) - math.dist(near[0].xyz[:2], o.xyz[:2]) < 4
    ):
        near = []
    if near and _clear(ask, near[:1]) and ask.rng.random() < 0.6:
        text = f"the {t.name} is taken away. which object is then nearest to the {o.name}?"
        think = f"{spot(o)} {spot(near[0])}"
        ask.text("prediction", "spatial_geometric", "then_nearest", text, near[0].name, think)
    elif e.tray_side is not None and not t.in_tray:
        inside = [r for r in e.last if r.in_tray and not r.held]
        text = f"the arm puts the {t.name} in the tray. how many objects are then in it?"
        names = " ".join(f"{r.name} {i + 1}." for i, r in enumerate([*inside, t]))
        dim = "quantitative_numerical"
        value = str(len(inside) + 1)
        ask.text("prediction", dim, "then_count", text, value, names)
