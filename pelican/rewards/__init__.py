"""Rule-based rewards of the six task families. `score` is the one entry."""

from pelican.rewards.base import PARSE_FAILURES, Judge, reason_class
from pelican.rewards.judge import judge_of
from pelican.rewards.score import score

__all__ = ["PARSE_FAILURES", "Judge", "judge_of", "reason_class", "score"]
