"""Counting and distance: counts are exact, lengths are scored by mean relative accuracy."""

from pelican.rewards import kinds
from pelican.rewards.base import Scorers

SCORERS: Scorers = {"distance": kinds.distance, "order": kinds.order, **kinds.CLOSED}
