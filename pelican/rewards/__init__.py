"""Rule-based rewards of the six task families. `score` is the one entry."""

from pelican.rewards.base import PARSE_FAILURES, Judge, Judgement, reason_class
from pelican.rewards.judge import judge_of, judge_workers
from pelican.rewards.score import score

__all__ = [
    "PARSE_FAILURES",
    "Judge",
    "Judgement",
    "judge_of",
    "judge_workers",
    "reason_class",
    "score",
]
