"""Causal and temporal reasoning: an exact choice, an order by Kendall's tau, a span by its IoU."""

from pelican.rewards import kinds
from pelican.rewards.base import Scorers

SCORERS: Scorers = {"order": kinds.order, "interval": kinds.interval, **kinds.CLOSED}
