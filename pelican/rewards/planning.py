"""Task planning: the exact next step, a list by its common subsequence, free text by a judge."""

from pelican.rewards import kinds
from pelican.rewards.base import Scorers
from pelican.rewards.judge import open_text

SCORERS: Scorers = {
    "steps": kinds.steps,
    "order": kinds.order,
    "open": open_text,
    **kinds.CLOSED,
}
