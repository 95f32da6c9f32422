"""The history of every practised sample over loops and phases, and what became of it.

A sample is weak at a moment if none of its rollouts succeeded (SR = 0), and solved if at least half
did. What became of it is read from its ledger rows in the order of training, and the teacher's
verdicts: see `outcome_of`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import polars as pl

from pelican.report.run import Run

NEVER_WEAK = "never_weak"
OUTCOMES = {
    "solved_rl": "solved by RL",
    "solved_teacher": "solved after the teacher",
    "solved_later": "solved later",
    "sometimes": "solved now and then",
    "taught": "taught, not seen again",
    "teacher_failed": "teacher failed",
    "weak": "still weak",
    "forgotten": "forgotten",
}
# What each means, for a reader of the pages; docs/reading-a-report.md says more.
MEANINGS = {
    "solved_rl": "never right before an RL phase, no longer so after it, and right in at least half"
    " of the rollouts when seen last",
    "solved_teacher": "never right after RL; the teacher's answer was trained on; right in at least"
    " half when seen last",
    "solved_later": "right in at least half when seen last, without a teacher's answer to it",
    "sometimes": "right when seen last, but in less than half of the rollouts",
    "taught": "the teacher's answer was trained on; later loops drew other samples",
    "teacher_failed": "the teacher had no right answer either",
    "weak": "never right when seen last",
    "forgotten": "right in at least half once, never when seen last",
    "never_weak": "some rollout was right every time",
}
SOLVED = 0.5
_LEDGER = ["sample_id", "loop", "phase", "success_rate", "rollouts", "family", "dimension"]


@dataclass(frozen=True, slots=True)
class Moment:
    """The success rate of one sample for one policy. Phase rl is before RL, sft is after it."""

    loop: int
    phase: str
    success_rate: float
    rollouts: int

    @property
    def order(self) -> tuple[int, int]:
        return (self.loop, 1 if self.phase == "sft" else 0)

    @property
    def words(self) -> str:
        if self.phase == "base":  # the diagnosis of a retraining
            return "before training"
        return f"loop {self.loop}, {'before' if self.phase == 'rl' else 'after'} RL"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One completion that a page shows, by the policy at some moment or by the teacher."""

    when: str
    completion: str
    success: bool
    reason: str = ""
    order: tuple[int, int] = (0, 0)


@dataclass(slots=True)
class Case:
    """One sample with its history; `verdicts`: loop -> the teacher's answer to it."""

    id: str
    family: str
    dimension: str
    timeline: list[Moment]
    outcome: str = ""
    source: str = ""
    verdicts: dict[int, Attempt] = field(default_factory=dict)
    attempts: list[Attempt] = field(default_factory=list)
    question: str = ""
    answer: str = ""
    images: list[str] = field(default_factory=list)


def outcome_of(timeline: Sequence[Moment], taught: dict[int, bool]) -> str:
    """What became of a weak sample. `taught`: loop -> the teacher's answer was accepted.

    Who solved it is told from the moment after its last SR = 0: RL if that stood before and after
    the same RL phase, the teacher if it gave an accepted answer in between.
    """
    last = timeline[-1]
    if last.success_rate == 0:
        if any(moment.success_rate >= SOLVED for moment in timeline[:-1]):
            return "forgotten"
        if last.phase == "sft" and last.loop in taught:
            return "taught" if taught[last.loop] else "teacher_failed"
        return "weak"
    if last.success_rate < SOLVED:
        return "sometimes"
    weak = max(index for index, moment in enumerate(timeline) if moment.success_rate == 0)
    before, after = timeline[weak], timeline[weak + 1]
    if before.phase == "rl" and after.phase == "sft" and before.loop == after.loop:
        return "solved_rl"
    if before.phase == "sft" and taught.get(before.loop):
        return "solved_teacher"
    return "solved_later"


def histories(run: Run) -> list[Case]:
    """Every sample that some ledger of the run names, by id, with its outcome."""
    ledgers = run.tables("filter", "ledger.parquet", _LEDGER)
    cases: dict[str, Case] = {}
    for frame in ledgers.values():
        source = pl.col("source") if "source" in frame.columns else pl.lit("").alias("source")
        for name, loop, phase, rate, rollouts, family, dimension, source_ in frame.select(
            *_LEDGER, source
        ).iter_rows():
            case = cases.get(name)
            if case is None:
                case = cases[name] = Case(name, family, dimension, [], source=source_)
            case.timeline.append(Moment(loop, phase, rate, rollouts))
    verdicts = teacher_verdicts(run)
    for case in cases.values():
        case.timeline.sort(key=lambda moment: moment.order)
        case.verdicts = verdicts.get(case.id, {})
        taught = {loop: attempt.success for loop, attempt in case.verdicts.items()}
        weak = any(moment.success_rate == 0 for moment in case.timeline)
        case.outcome = outcome_of(case.timeline, taught) if weak else NEVER_WEAK
    return [cases[key] for key in sorted(cases)]


def teacher_verdicts(run: Run) -> dict[str, dict[int, Attempt]]:
    """The teacher's last word per sample and loop; an accepted answer beats refused ones."""
    found: dict[str, dict[int, Attempt]] = defaultdict(dict)
    for stage, frame in run.tables("distill", "teacher.parquet", ["sample_id", "accepted"]).items():
        if "origin" in frame.columns:  # related and general rows are answered too
            frame = frame.filter(origin="weak")
        for row in frame.iter_rows(named=True):
            known = found[row["sample_id"]].get(stage.loop)
            if known and known.success:
                continue
            tries = row.get("tries")
            words = f"loop {stage.loop}, teacher" + (f", {tries} tries" if tries else "")
            found[row["sample_id"]][stage.loop] = Attempt(
                words.replace(", 1 tries", ", first try"),
                str(row.get("answer_text") or ""),
                bool(row["accepted"]),
                str(row.get("reason") or ""),
                (stage.loop, 2),
            )
    return found
