"""General questions, for replay and the general suite: every kind of answer."""

from pelican.rewards import kinds
from pelican.rewards.base import Scorers
from pelican.rewards.judge import open_text

SCORERS: Scorers = {
    "points": kinds.points,
    "box": kinds.box,
    "distance": kinds.distance,
    "order": kinds.order,
    "interval": kinds.interval,
    "steps": kinds.steps,
    "open": open_text,
    **kinds.CLOSED,
}
