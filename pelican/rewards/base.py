"""What the rules of `kinds.py` share: their input `Asked`, their `Verdict`, and `Unscorable`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

A = TypeVar("A")


@dataclass(frozen=True, slots=True)
class Judgement:
    """The votes on one answer."""

    yes: int
    no: int

    @property
    def right(self) -> bool:
        return self.yes > self.no

    @property
    def agreement(self) -> float:
        """Share of the votes that went with the majority."""
        return max(self.yes, self.no) / (self.yes + self.no)


# (question, reference, answer) -> its votes
Judge = Callable[[str, str, str], Judgement]

# The first words of `Score.reason`; a detail may follow after ": ".
ReasonClass = Literal[
    "wrong",
    "no answer",
    "several answers",
    "unreadable",
    "refused",
    "no judge configured",
    "unjudged",
    "flipped",
]
PARSE_FAILURES: tuple[ReasonClass, ...] = ("no answer", "several answers", "unreadable", "refused")


@dataclass(frozen=True, slots=True)
class Asked(Generic[A]):
    """One answer to score: `text` is what the policy said, `answer` the reference."""

    answer: A
    text: str
    question: str = ""
    judge: Judge | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """`value` in [0, 1], the answer as it was read, and why the value is 0 ("" if it is not)."""

    value: float
    answer: str
    reason: str = ""


class Unscorable(Exception):
    """The completion holds no answer that can be scored; it scores 0 for this reason."""

    def __init__(self, kind: ReasonClass, detail: str = "") -> None:
        super().__init__(kind, detail)
        self.reason = f"{kind}: {detail}" if detail else kind


Scorer = Callable[[Asked[Any]], Verdict]
Scorers = Mapping[str, Scorer]


def reason_class(reason: str) -> str:
    """The part of a reason that is counted: what stands before the colon."""
    return reason.partition(":")[0]
