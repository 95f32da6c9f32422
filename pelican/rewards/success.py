"""Task success evaluation: yes or no, or an exact choice; when it failed, as a span."""

from pelican.rewards import kinds
from pelican.rewards.base import Scorers

SCORERS: Scorers = {"interval": kinds.interval, **kinds.CLOSED}
