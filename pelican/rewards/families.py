"""Add a reward here: the table of which kinds of answers each task family has, and their rules.

A family is what a question is about (`records.Family`), a kind is the form of its answer (the field
`kind` of the classes in `records.Answer`), and a rule is a function of `kinds.py` that gives a reward
of 0 to 1. To let questions about success be answered by a list of steps, too, add one entry:

    Family.SUCCESS: {"interval": kinds.interval, "steps": kinds.steps, **kinds.CLOSED},

A rule that does not exist yet is one function more: the head of `kinds.py` shows one. A new kind of
answer is one class more in `records.Answer`. docs/rewards.md says how each kind is scored.
"""

from pelican.records import Family
from pelican.rewards import kinds
from pelican.rewards.base import Scorers
from pelican.rewards.judge import open_text

FAMILIES: dict[Family, Scorers] = {
    # Where to grasp, push or place: points in a mask, or a box. A box is refused where points are
    # asked, else the box that covers everything would win.
    Family.AFFORDANCE: {"points": kinds.points, "box": kinds.box, **kinds.CLOSED},
    # Counts are exact; lengths are scored by mean relative accuracy.
    Family.COUNTING: {"distance": kinds.distance, "order": kinds.order, **kinds.CLOSED},
    # Causal and temporal reasoning: an exact choice, an order by Kendall's tau, a span by its IoU.
    Family.TEMPORAL: {"order": kinds.order, "interval": kinds.interval, **kinds.CLOSED},
    # Whether a task succeeded: yes or no, or an exact choice; when it failed, as a span.
    Family.SUCCESS: {"interval": kinds.interval, **kinds.CLOSED},
    # The exact next step, a list by its common subsequence, free text by a judge.
    Family.PLANNING: {
        "steps": kinds.steps,
        "order": kinds.order,
        "open": open_text,
        **kinds.CLOSED,
    },
    # The exact next state or a choice of it; where a thing will be, as points.
    Family.PREDICTION: {
        "points": kinds.points,
        "box": kinds.box,
        "distance": kinds.distance,
        "open": open_text,
        **kinds.CLOSED,
    },
    # General questions, for replay and the general suite: every kind of answer.
    Family.GENERAL: {
        "points": kinds.points,
        "box": kinds.box,
        "distance": kinds.distance,
        "order": kinds.order,
        "interval": kinds.interval,
        "steps": kinds.steps,
        "open": open_text,
        **kinds.CLOSED,
    },
}
