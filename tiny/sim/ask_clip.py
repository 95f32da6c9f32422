"""Questions about clips: what happened, when, in which order, and whether it was what was asked."""

import math
from typing import Any

from tiny.sim.ask import Asker, at, spot
from tiny.sim.records import Event, Thing

_ENDS = {
    "place": "it was put down",
    "push": "it was pushed",
    "knocked": "it was knocked over",
    "still": "it did not move",
}


# Right options that are easy to come by are kept less often, so that none is the one to guess.
KEEP_CAUSE = {"it was put down": 0.3, "it did not move": 0.35, "it was pushed": 0.5}
KEEP_TRAY: dict[str, float] = {}
KEEP_MOVE = {"done": 0.35, "wrong object": 0.35}


def _moves(ask: Asker) -> list[Event]:
    return [e for e in ask.episode.events if e.outcome != "missed"]


def _once(ask: Asker) -> list[Event]:
    """Moves of objects that were moved once."""
    names = [e.object for e in _moves(ask)]
    return [e for e in _moves(ask) if names.count(e.object) == 1]


def _said(e: Event) -> str:
    return f"{e.object} at {e.t_start:.0f} s."


def temporal(ask: Asker) -> None:
    """Order, interval, first and last, held at a time, and causes."""
    moves = _moves(ask)
    once = _once(ask)
    seq = "temporal_sequential"
    story = " ".join(_said(e) for e in moves)
    if len(moves) >= 2 and len(once) == len(moves):
        items = [e.object for e in moves]
        text = ask.say("in which order were the objects moved?", "list the moved objects in order.")
        answer: dict[str, Any] = {"kind": "order", "items": items}
        ask.put("temporal", seq, "order", text, answer, "; ".join(items), story)
        for word, e in (("first", moves[0]), ("last", moves[-1])):
            text = ask.say("which object was moved {}?", "what did the arm move {}?").format(word)
            ask.text("temporal", seq, f"moved_{word}", text, e.object, story)
        k = int(ask.rng.integers(len(moves) - 1))
        text = ask.say("what was moved just {} the {}?", "which object moved right {} the {}?")
        if ask.rng.random() < 0.5:
            text, value = text.format("before", items[k + 1]), items[k]
        else:
            text, value = text.format("after", items[k]), items[k + 1]
        ask.text("temporal", seq, "neighbour", text, value, story)
    if once:
        e = once[int(ask.rng.integers(len(once)))]
        text = ask.say("when was the {} moved?", "from when to when does the {} move?").format(
            e.object
        )
        answer = {"kind": "interval", "start": e.t_start, "end": e.t_end}
        think = f"{e.object} leaves {at(e.source)} at {e.t_start:.0f} s and is at {at(e.target)} at {e.t_end:.0f} s."
        ask.put(
            "temporal",
            seq,
            "interval",
            text,
            answer,
            f"{e.t_start:.0f} to {e.t_end:.0f} s",
            think,
        )
    _held(ask)
    _cause(ask)


def _held(ask: Asker) -> None:
    states = ask.episode.states
    times = [i for i, s in enumerate(states) if any(t.held and t.pixels >= 30 for t in s)]
    if not times:
        return
    i = times[int(ask.rng.integers(len(times)))]
    t = next(t for t in states[i] if t.held)
    text = ask.say("what does the arm hold at {} s?", "which object is in the gripper at {} s?")
    think = f"at {8 * i} s the gripper is at {at(ask.episode.gripper[i])} over {t.name}."
    dimension = "scene_action_understanding"
    ask.text("temporal", dimension, "held_at", text.format(8 * i), t.name, think)


def _cause(ask: Asker) -> None:
    """What happened to an object, one of each fate at most once moved."""
    e = ask.episode
    once = {v.object: v for v in _once(ask)}
    touched = {v.object for v in _moves(ask)}
    fates: dict[str, list[str]] = {}
    for t in e.last:
        event = once.get(t.name)
        if event is None:
            if t.name not in touched:
                fates.setdefault("still", []).append(t.name)
        elif t.fallen and event.kind == "push":
            fates.setdefault("knocked", []).append(t.name)
        elif not t.fallen and event.outcome != "dropped":
            fates.setdefault(event.kind, []).append(t.name)
    if not fates:
        return
    rare = [f for f in ("knocked", "push") if f in fates]
    right = rare[0] if rare else ask.say(*sorted(fates))
    name = ask.say(*fates[right])
    before, after = _named(e.first, name), _named(e.last, name)
    text = ask.say("what happened to the {}?", "how did the {} end?").format(name)
    lies = " it lies." if after.fallen else " it stands."
    think = f"{name} from {at(before.centre)} to {at(after.centre)}.{lies if name in once else ''}"
    options = list(_ENDS.values())
    ask.choice(
        "temporal", "physical_causal", "cause", text, options, _ENDS[right], think, KEEP_CAUSE
    )


def _named(state: list[Thing], name: str) -> Thing:
    return next(t for t in state if t.name == name)


def _shift(ask: Asker, name: str) -> float:
    e = ask.episode
    return math.dist(_named(e.first, name).xyz, _named(e.last, name).xyz)


def success(ask: Asker) -> None:
    """Add questions on whether the arm did its task, answered from the first and the last state."""
    e = ask.episode
    if not e.events:
        return
    went = [t.name for t in e.last if _shift(ask, t.name) > 3]
    if e.tray_side is not None:
        _task_tray(ask, went)
    if e.tray_side is None or ask.rng.random() < 0.4:
        _task_move(ask, went)
    _changes(ask, went)


def _task_tray(ask: Asker, went: list[str]) -> None:
    e = ask.episode
    options = ["done", "it is outside the tray", "wrong object", "it was not moved"]
    entered = [t for t in e.last if t.in_tray and not _named(e.first, t.name).in_tray]
    results: dict[int, list[Thing]] = {}
    for t in e.last:
        if not _named(e.first, t.name).in_tray:
            others = any(o is not t for o in entered)
            right = 0 if t.in_tray else 1 if t.name in went else 2 if others else 3
            results.setdefault(right, []).append(t)
    if not results:
        return
    right = sorted(results)[int(ask.rng.integers(len(results)))]
    after = ask.pick(results[right])
    tray = f"the tray is on the {e.tray_side}."
    before = _named(e.first, after.name)
    think = f"{tray} {after.name} from {at(before.centre)} to {at(after.centre)}."
    if right == 2:
        think += f" {entered[0].name} is in the tray."
    text = ask.say("task: put the {} in the tray. result?", "was the {} put in the tray?")
    act = "scene_action_understanding"
    text = text.format(after.name)
    ask.choice("success", act, "task_tray", text, options, options[right], think, KEEP_TRAY)
    if len(entered) == 1:
        text = ask.say("which object ended in the tray?", "what was put in the tray?")
        if any(t.in_tray for t in e.first):
            text = "what was put in the tray?"  # others were there before
        ask.text("success", act, "entered", text, entered[0].name, f"{tray} {spot(entered[0])}")


def _task_move(ask: Asker, went: list[str]) -> None:
    e = ask.episode
    options = ["done", "it fell over", "wrong object", "nothing moved"]
    fell = [t for t in e.last if t.fallen and t.name in went]
    if fell:
        right, after = 1, ask.pick(fell)
    elif not went:
        right, after = 3, ask.pick(e.last)
    else:
        stayed = [t for t in e.last if t.name not in went]
        right = 2 if stayed and ask.rng.random() < 0.5 else 0
        after = ask.pick(stayed if right else [t for t in e.last if t.name in went])
    before = _named(e.first, after.name)
    think = f"{after.name} from {at(before.centre)} to {at(after.centre)}."
    if right == 2:
        think += f" {went[0]} moved."
    text = ask.say("task: move the {}. result?", "did the arm move the {} well?")
    dimension = "physical_causal" if right in (1, 3) else "scene_action_understanding"
    ask.choice(
        "success",
        dimension,
        "task_move",
        text.format(after.name),
        options,
        options[right],
        think,
        KEEP_MOVE,
    )


def _changes(ask: Asker, went: list[str]) -> None:
    e = ask.episode
    many = "multi_object_consistency"
    if len(went) == 1:
        a, b = _named(e.first, went[0]), _named(e.last, went[0])
        text = ask.say("which object changed its place?", "what is not where it was?")
        think = f"{went[0]} from {at(a.centre)} to {at(b.centre)}."
        ask.text("success", many, "changed", text, went[0], think)
    stay = [t for t in e.last if _shift(ask, t.name) < 1]
    if len(stay) == 1 and len(e.last) > 2:
        text = ask.say("which object stayed in its place?", "what did not move?")
        ask.text(
            "success", many, "stayed", text, stay[0].name, " ".join(f"{n} moved." for n in went[:4])
        )
    text = ask.say("how many objects changed place?", "how many objects did the arm move?")
    names = " ".join(f"{n} {i + 1}." for i, n in enumerate(went)) or "there is none."
    ask.count("counting", many, "count_moved", text, len(went), names)
    once = [n for n in went if any(v.object == n for v in e.events)]
    if once:
        name = once[int(ask.rng.integers(len(once)))]
        a, b = _named(e.first, name), _named(e.last, name)
        gap = max(1, round(math.dist(a.xyz[:2], b.xyz[:2])))
        text = ask.say("how far did the {} move in cm?", "how many cm did the {} travel?").format(
            name
        )
        answer = {"kind": "distance", "value": float(gap), "unit": "cm"}
        think = f"{name} from {at(a.centre)} to {at(b.centre)}."
        dim = "quantitative_numerical"
        ask.put("counting", dim, "travel", text, answer, f"{gap} cm", think)
