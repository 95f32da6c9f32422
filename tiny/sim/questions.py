"""All questions that one episode gives."""

import numpy as np

from tiny.sim.ask import Asker
from tiny.sim.ask_clip import success, temporal
from tiny.sim.ask_plan import planning, prediction
from tiny.sim.ask_still import affordance, counting
from tiny.sim.records import QA, Episode

EASY = frozenset(
    {
        "point_object",
        "box_object",
        "use_point",
        "count_all",
        "count_colour",
        "count_kind",
        "distance",
        "moved_first",
        "held_at",
        "interval",
        "changed",
        "task_move",
        "next_step",
        "will_pick",
        "will_drop",
    }
)


def questions(episode: Episode, rng: np.random.Generator, wide: bool = True) -> list[QA]:
    """One question per template that applies; without `wide` those of the narrow distribution."""
    ask = Asker(episode, rng, EASY)
    if len(episode.frames) == 1:
        affordance(ask)
        counting(ask)
        prediction(ask)
    else:
        temporal(ask)
        success(ask)
    planning(ask)
    return ask.found if wide else [q for q in ask.found if q.narrow]
