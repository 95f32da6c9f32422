"""Questions that teach the language model to read the picture; in no sample set and in no score.

From the answers alone, finding an object by its description emerges late. Naming everything in
the order of the image's tokens, and what is at a point, ties names and places to tokens directly.
"""

from __future__ import annotations

import numpy as np

from tiny.sim.records import QA, Episode, Thing

FAMILY = "looking"


def looking(episode: Episode, rng: np.random.Generator) -> list[QA]:
    """Up to four questions about one still."""
    things = [t for t in episode.first if t.pixels >= 40]
    if not things or len(episode.frames) > 1:
        return []
    ordered = sorted(things, key=lambda t: (t.centre[1] // 25, t.centre[0]))
    found = [
        _qa("list", "list the objects.", " ".join(map(_spot, ordered)), str(len(things))),
        _qa(
            "names", "name the objects.", ", ".join(t.name for t in ordered) + ".", str(len(things))
        ),
    ]
    for i in rng.permutation(len(things))[:2]:
        t = things[int(i)]
        point = f"({t.centre[0]}, {t.centre[1]})"
        found.append(_qa("at", f"what is at {point}?", f"a {t.kind}. it is {t.colour}.", t.name))
        found.append(_qa("find", f"find the {t.name}.", _spot(t), point))
    return found


def _spot(thing: Thing) -> str:
    return f"{thing.name} at ({thing.centre[0]}, {thing.centre[1]})."


def _qa(template: str, question: str, think: str, gold: str) -> QA:
    answer: dict[str, object] = {"kind": "text", "value": gold}
    return QA(FAMILY, "perception_grounding", template, question, answer, gold, think, 0.0, False)
