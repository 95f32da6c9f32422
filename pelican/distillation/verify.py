"""The teacher's tries against our own reward: only what it accepts may be learned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pelican.distillation.teacher import Reply
from pelican.recipe import RewardConfig
from pelican.records import Sample, Score
from pelican.rewards import Judge, score


@dataclass(frozen=True, slots=True)
class Verified:
    """The best try for one sample, and whether it may be learned."""

    text: str
    accepted: bool
    reason: str
    score: float
    tries: int
    accepted_tries: int
    tokens: int


def verify(
    sample: Sample, replies: Sequence[Reply], config: RewardConfig, judge: Judge | None = None
) -> Verified:
    """The accepted try with the highest task score, of equals the shortest, of equals the first.

    Accepted: the task succeeded and the format is whole. If none is, the best failed try with its
    reason.
    """
    scored = [
        (reply, score(sample, reply.text, config, index=i, judge=judge))
        for i, reply in enumerate(replies)
    ]
    accepted = [(reply, given) for reply, given in scored if is_accepted(reply, given)]
    reply, best = min(
        accepted or scored,
        key=lambda pair: (bool(pair[0].error), -pair[1].task, len(pair[0].text)),
    )
    return Verified(
        text=reply.text,
        accepted=bool(accepted),
        reason="" if accepted else reply.error or best.reason or _unaccepted(best),
        score=best.task,
        tries=len(replies),
        accepted_tries=len(accepted),
        tokens=sum(reply.tokens for reply in replies),
    )


def is_accepted(reply: Reply, given: Score) -> bool:
    return not reply.error and given.success and given.format == 1.0


def _unaccepted(given: Score) -> str:
    """Why a try whose task part is above 0 is not accepted."""
    return "format" if given.success else f"task score {given.task:.2f} is no success"
