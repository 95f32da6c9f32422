"""Which samples are worth a person's look: those whose label or picture may be wrong come first."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import polars as pl

from pelican.report.evidence import rows_of, scores_of
from pelican.report.history import NEVER_WEAK, SOLVED, Case
from pelican.report.run import Run
from pelican.rewards.base import Unscorable
from pelican.rewards.extract import extract_answer
from pelican.rewards.parse.text import normalise

_SURE = 0.75  # share of the wrong answers that say the same
_LEAST = 4  # wrong answers before that means anything


@dataclass(frozen=True, slots=True)
class Habit:
    """What the policy says when it is wrong: the commonest answer, its share, and of how many."""

    answer: str
    share: float
    wrong: int


def habits(run: Run, ids: Collection[str]) -> dict[str, Habit]:
    """The wrong answers of every sample of `ids`, over all moments."""
    parts = []
    for stage in run.finished("rollout"):
        scores = rows_of(run, scores_of(stage), "scores", ids)
        if scores is not None:
            wrong = scores.filter(~pl.col("success") & (pl.col("answer") != ""))
            parts.append(wrong.select("sample_id", "answer"))
    if not parts:
        return {}
    counts = pl.concat(parts).group_by("sample_id", "answer").len()
    best = (
        counts.with_columns(wrong=pl.col("len").sum().over("sample_id"))
        .sort("len", "answer", descending=[True, False])
        .unique("sample_id", keep="first", maintain_order=True)
    )
    return {
        name: Habit(answer, count / wrong, wrong)
        for name, answer, count, wrong in best.select(
            "sample_id", "answer", "len", "wrong"
        ).iter_rows()
    }


def interest(case: Case, habit: Habit | None) -> tuple[float, str]:
    """How much a sample deserves a look, 0 … 5, and why in words.

    A teacher and a policy that were trained apart and agree against the label are the best sign of
    a wrong label; one answer given every time is a weaker one.
    """
    if case.outcome == NEVER_WEAK:
        return 0.0, ""
    if case.timeline[-1].success_rate >= SOLVED:
        return 0.5, ""
    refused = [a for a in case.verdicts.values() if not a.success]
    failed = bool(refused) and len(refused) == len(case.verdicts)
    sure = habit is not None and habit.share >= _SURE and habit.wrong >= _LEAST
    if habit is not None and failed and any(_says(a.completion, habit.answer) for a in refused):
        return 5.0, f"policy and teacher both say {_short(habit.answer)}"
    if habit is not None and failed and sure:
        return 4.0, f"the policy insists on {_short(habit.answer)}, the teacher failed"
    if case.outcome == "forgotten":
        return 3.0, "was solved, is not any more"
    last = case.timeline[-1].order
    taught = [loop for loop, a in case.verdicts.items() if a.success and (loop, 1) < last]
    if taught and case.timeline[-1].success_rate == 0:
        return 2.5, f"taught in loop {taught[0]}, still never right"
    if failed:
        return 2.0, "the teacher failed"
    if case.timeline[-1].success_rate == 0:
        if habit is not None and sure:
            return 1.5, f"the policy insists on {_short(habit.answer)}"
        return 1.0, "never right when seen last"
    return 0.8, ""


def _says(completion: str, answer: str) -> bool:
    try:
        return normalise(extract_answer(completion).text) == normalise(answer)
    except Unscorable:
        return False


def _short(answer: str) -> str:
    line = " ".join(answer.split())
    return f"“{line[:40]}…”" if len(line) > 41 else f"“{line}”"


def by_interest(cases: Sequence[Case], known: dict[str, Habit]) -> list[tuple[Case, float, str]]:
    """The cases with their interest and its reason, the most interesting first."""
    rated = [(case, *interest(case, known.get(case.id))) for case in cases]
    return sorted(rated, key=lambda row: (-row[1], row[0].id))
