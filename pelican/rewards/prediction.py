"""Task prediction: an exact choice or the exact next state; where a thing will be, as points."""

from pelican.rewards import kinds
from pelican.rewards.base import Scorers
from pelican.rewards.judge import open_text

SCORERS: Scorers = {
    "points": kinds.points,
    "box": kinds.box,
    "distance": kinds.distance,
    "open": open_text,
    **kinds.CLOSED,
}
