"""Questions about one picture: affordance and counting."""

import numpy as np
from numpy.typing import NDArray

from tiny.sim.ask import MARGIN, PLURAL, Asker, decoded, ground, spot, tally
from tiny.sim.records import SIZE, Thing
from tiny.sim.world import COLOURS, KINDS

USES = {  # what can be asked for: the kinds that serve it
    "can roll": ("ball",),
    "has a handle": ("mug",),
    "can hold soup": ("bowl",),
    "has a flat top to stack on": ("cube",),
    "has a narrow neck": ("bottle",),
    "can hold water": ("bowl", "mug"),
}
_SIDES = {"left of": (-1, 0), "right of": (1, 0), "in front of": (0, 1), "behind": (0, -1)}


def affordance(ask: Asker) -> None:
    """Points and boxes."""
    things = ask.things
    if not things:
        return
    t = ask.pick(things)
    text = ask.say("point to the {}.", "where is the {}?", "show me the {}.").format(t.name)
    ask.point("perception_grounding", "point_object", text, decoded(t.mask), t.name + " at {}.")
    _box(ask, ask.pick(things))
    _free_spot(ask, ask.pick(things))
    _grasp(ask, ask.pick(things))
    _use(ask)
    _tray(ask)
    _related(ask)
    _twin(ask)


def _box(ask: Asker, t: Thing) -> None:
    gold = "[" + ", ".join(map(str, t.box)) + "]"
    text = ask.say("give the box of the {}.", "draw a box around the {}.").format(t.name)
    answer = {"kind": "box", "box": list(t.box), "scale": 100}
    ask.put("affordance", "perception_grounding", "box_object", text, answer, gold, spot(t))


def _free_spot(ask: Asker, t: Thing) -> None:
    side = list(_SIDES)[int(ask.rng.integers(4))]
    dx, dy = _SIDES[side]
    x0, y0, x1, y1 = (v * SIZE / 100 for v in t.box)
    yy, xx = np.mgrid[0:SIZE, 0:SIZE]
    if dx:
        near = (xx < x0) & (xx > x0 - 26) if dx < 0 else (xx > x1) & (xx < x1 + 26)
        zone = near & (yy > y0 - 2) & (yy < y1 + 4)
    else:
        near = (yy > y1) & (yy < y1 + 24) if dy > 0 else (yy < y0) & (yy > y0 - 24)
        zone = near & (xx > x0 - 4) & (xx < x1 + 4)
    mask = decoded(ask.episode.free[0]) & zone
    if mask.sum() < 60 or t.held:
        return
    text = ask.say("point to a free spot {} the {}.", "point to bare table {} the {}.")
    think = spot(t) + f" {side} it is free at " + "{}."
    ask.point("spatial_geometric", "free_spot", text.format(side, t.name), mask, think)


def _grasp(ask: Asker, t: Thing) -> None:
    mask = decoded(t.mask)
    ys = np.flatnonzero(mask.any(1))
    top = 0.45 if t.kind in ("bottle", "can", "mug") else 0.7
    mask[int(ys[0] + top * (ys[-1] - ys[0])) + 1 :] = False
    if t.held or t.fallen:
        return
    text = ask.say("where should the gripper grasp the {}?", "point where to grasp the {}.")
    part = "top" if top < 0.5 else "middle"
    think = f"{spot(t)} grasp its {part} at " + "{}."
    ask.point("affordance_function", "grasp_point", text.format(t.name), mask, think)


def _use(ask: Asker) -> None:
    uses = [u for u, kinds in USES.items() if any(t.kind in kinds for t in ask.things)]
    if not uses:
        return
    use = uses[int(ask.rng.integers(len(uses)))]
    serve = [t for t in ask.things if t.kind in USES[use]]
    mask: NDArray[np.bool_] = np.zeros((SIZE, SIZE), bool)
    for t in serve:
        mask |= decoded(t.mask)
    best = max(serve, key=lambda t: t.pixels)
    text = ask.say("point to an object that {}.", "which object {}? point to it.").format(use)
    if mask.sum() < 20:
        return
    gold = f"({best.centre[0]}, {best.centre[1]})"
    if not mask[best.centre[1] * SIZE // 100, best.centre[0] * SIZE // 100]:
        return
    think = f"a {best.kind} {use}. {spot(best)}"
    answer = {"kind": "points", "mask": _encoded(mask), "scale": 100}
    ask.put("affordance", "affordance_function", "use_point", text, answer, gold, think)


def _encoded(mask: NDArray[np.bool_]) -> dict[str, object]:
    from tiny.sim import rle

    return rle.encode(mask)


def _tray(ask: Asker) -> None:
    side = ask.episode.tray_side
    if side is None:
        return
    text = ask.say("point to free space in the tray.", "where in the tray can things be put?")
    think = f"the tray is on the {side}. free at " + "{}."
    ask.point("affordance_function", "tray_free", text, decoded(ask.episode.tray), think)


def _related(ask: Asker) -> None:
    things = [t for t in ask.things if not t.held and t.on is None]
    if len(things) < 3:
        return
    others = [t for t in ask.things if t.held or t.on is not None]  # must not be the answer
    if ask.rng.random() < 0.5:
        t = ask.pick(things)
        near = sorted((o for o in things if o is not t), key=lambda o: ground(o, t))
        if any(ground(o, t) - ground(near[0], t) < 4 for o in (near[1], *others)):
            return
        text = ask.say("point to the object nearest to the {}.", "point to what is next to the {}.")
        think = f"{spot(t)} nearest is {near[0].name} at " + "{}."
        ask.point(
            "spatial_geometric", "nearest_point", text.format(t.name), decoded(near[0].mask), think
        )
        return
    word, axis, sign = [("left", 0, 1), ("right", 0, -1), ("front", 1, -1), ("back", 1, 1)][
        int(ask.rng.integers(4))
    ]
    row = sorted(things, key=lambda o: sign * o.centre[axis])
    if any(sign * (o.centre[axis] - row[0].centre[axis]) < 5 for o in (row[1], *others)):
        return
    text = ask.say("point to the object furthest to the {}.", "point to the {}most object.")
    if word in ("front", "back"):
        text = "point to the object furthest to the {}."
    think = f"furthest to the {word} is {row[0].name} at " + "{}."
    ask.point("spatial_geometric", "furthest_point", text.format(word), decoded(row[0].mask), think)


def _twin(ask: Asker) -> None:
    for t in ask.shuffled(ask.things):
        twins = [o for o in ask.things if o.colour == t.colour and o is not t]
        if len(twins) == 1:
            text = ask.say(
                "point to the object with the same colour as the {}.",
                "what else is as coloured as the {}? point to it.",
            )
            think = f"also {t.colour} is {twins[0].name} at " + "{}."
            mask = decoded(twins[0].mask)
            ask.point("multi_object_consistency", "twin_point", text.format(t.name), mask, think)
            return


def counting(ask: Asker) -> None:
    """Counts and distances."""
    e = ask.episode
    things = [t for t in e.first if not t.held]
    held = [t for t in e.first if t.held]  # nobody can say whether these count
    if not things:
        return
    num = "quantitative_numerical"
    ordered = sorted(things, key=lambda t: t.centre)
    text = ask.say("how many objects are on the table?", "count the objects on the table.")
    ask.count("counting", num, "count_all", text, len(things), tally(ordered))
    present = sorted({t.colour for t in things})
    colour = _rather_many(ask, present, [t.colour for t in things])
    if ask.rng.random() < 0.15:
        colour = COLOURS[int(ask.rng.integers(len(COLOURS)))]
    found = [t for t in ordered if t.colour == colour]
    text = ask.say("how many {} objects are there?", "count the {} things.").format(colour)
    if all(t.colour != colour for t in held):
        ask.count("counting", num, "count_colour", text, len(found), tally(found))
    kinds = sorted({t.kind for t in things})
    kind = _rather_many(ask, kinds, [t.kind for t in things])
    if ask.rng.random() < 0.15:
        kind = KINDS[int(ask.rng.integers(len(KINDS)))]
    found = [t for t in ordered if t.kind == kind]
    text = ask.say("how many {} are there?", "count the {}.").format(PLURAL[kind])
    if all(t.kind != kind for t in held):
        ask.count("counting", num, "count_kind", text, len(found), tally(found))
    if e.tray_side is not None:
        found = [t for t in ordered if t.in_tray]
        text = ask.say("how many objects are in the tray?", "count what is in the tray.")
        think = f"the tray is on the {e.tray_side}. {tally(found)}"
        ask.count("counting", "multi_object_consistency", "count_tray", text, len(found), think)
    if len(things) >= 2:
        _pairs(ask, things, ordered, held)


def _rather_many(ask: Asker, words: list[str], values: list[str]) -> str:
    """One of the words, drawn by the square of its frequency: else most answers would be 1."""
    weights = np.array([values.count(w) ** 2 for w in words], float)
    return words[int(ask.rng.choice(len(words), p=weights / weights.sum()))]


def _pairs(ask: Asker, things: list[Thing], ordered: list[Thing], held: list[Thing]) -> None:
    t, o = ask.shuffled(things)[:2]
    if t.on is None and o.on is None:
        gap = max(1, round(ground(t, o)))
        text = ask.say(
            "how far is the {} from the {} in cm?", "distance of the {} and the {} in cm?"
        )
        answer = {"kind": "distance", "value": float(gap), "unit": "cm"}
        think = f"{spot(t)} {spot(o)}"
        dimension = "quantitative_numerical" if ask.rng.random() < 0.5 else "spatial_geometric"
        text = text.format(t.name, o.name)
        ask.put("counting", dimension, "distance", text, answer, f"{gap} cm", think)
    t = ask.pick(things)
    side, sign = (("left", -1), ("right", 1))[int(ask.rng.integers(2))]
    gaps = [(o, sign * (o.centre[0] - t.centre[0])) for o in ordered if o is not t]
    if all(abs(g) >= MARGIN / 2 for _, g in gaps):
        found = [o for o, g in gaps if g > 0]
        text = ask.say("how many objects are {} of the {}?", "count what is {} of the {}.")
        text = text.format(side, t.name)
        think = f"{spot(t)} {tally(found)}"
        if not held:
            ask.count("counting", "spatial_geometric", "count_side", text, len(found), think)
    t = ask.pick(things)
    key = ask.say("colour", "shape")
    alike = [o for o in (*ordered, *held) if o is not t]
    alike = [o for o in alike if (o.colour == t.colour if key == "colour" else o.kind == t.kind)]
    found = [o for o in alike if not o.held]
    text = f"how many other objects have the same {key} as the {t.name}?"
    think = tally(found)
    if found == alike:
        ask.count("counting", "multi_object_consistency", "count_same", text, len(found), think)
