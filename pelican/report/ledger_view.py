"""The weakness ledger for people: which samples failed, what became of them, and some to look at.

A sample is weak at a moment if none of its rollouts succeeded (SR = 0), and solved if at least half
did. What became of it is read from its ledger rows in the order of training, and the teacher's
verdicts: see `outcome_of`.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from pelican.data.tables import sample_from_row, shard_paths
from pelican.errors import UserInputError
from pelican.evaluation.forgetting import with_flips
from pelican.records import Sample
from pelican.report.pictures import answer_words, pictures
from pelican.report.run import Run
from pelican.stages.base import resolve_input

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
SOLVED = 0.5
SHOWN_ROLLOUTS = 2  # of each moment
PICTURE_BUDGET = 5_500_000  # bytes of a page


@dataclass(frozen=True)
class Moment:
    """The success rate of one sample for one policy. Phase rl is before RL, sft is after it."""

    loop: int
    phase: str
    success_rate: float
    rollouts: int

    @property
    def order(self) -> tuple[int, int]:
        return (self.loop, 0 if self.phase == "rl" else 1)

    @property
    def words(self) -> str:
        return f"loop {self.loop}, {'before' if self.phase == 'rl' else 'after'} RL"


@dataclass(frozen=True)
class Attempt:
    """One completion that the page shows, by the policy at some moment or by the teacher."""

    when: str
    completion: str
    success: bool
    reason: str = ""
    order: tuple[int, int] = (0, 0)


@dataclass
class Case:
    """One weak sample with its history."""

    id: str
    family: str
    dimension: str
    timeline: list[Moment]
    outcome: str = ""
    attempts: list[Attempt] = field(default_factory=list)
    question: str = ""
    answer: str = ""
    images: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class LedgerView:
    """Cases to browse, and the counts of all weak samples by outcome and family."""

    cases: list[Case]
    total: int
    outcomes: dict[str, int]
    by_family: dict[str, dict[str, int]]


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


def view_ledger(run: Run, limit: int = 150) -> LedgerView:
    """All weak samples of a run, and up to `limit` of them, spread over outcome and family."""
    cases = _weak_cases(run)
    taught = _teacher(run)
    for case in cases:
        verdicts = taught.get(case.id, {})
        case.outcome = outcome_of(case.timeline, {loop: a.success for loop, a in verdicts.items()})
        case.attempts = list(verdicts.values())
    by_family: dict[str, dict[str, int]] = defaultdict(lambda: dict.fromkeys(OUTCOMES, 0))
    for case in cases:
        by_family[case.family][case.outcome] += 1
    chosen = _stratified(cases, limit, run.seed)
    _add_attempts(run, chosen)
    _add_samples(run, chosen)
    counts = Counter(case.outcome for case in cases)
    return LedgerView(
        cases=chosen,
        total=len(cases),
        outcomes={name: counts[name] for name in OUTCOMES if counts[name]},
        by_family=dict(sorted(by_family.items())),
    )


def _weak_cases(run: Run) -> list[Case]:
    columns = ["sample_id", "loop", "phase", "success_rate", "rollouts", "family", "dimension"]
    ledgers = run.tables("filter", "ledger.parquet", columns)
    if not ledgers:
        return []
    rows = pl.concat([frame.select(columns) for frame in ledgers.values()], how="vertical_relaxed")
    weak = rows.filter(pl.col("success_rate") == 0).select("sample_id").unique()
    cases: dict[str, Case] = {}
    for row in rows.join(weak, on="sample_id", how="semi").iter_rows(named=True):
        case = cases.setdefault(
            row["sample_id"], Case(row["sample_id"], row["family"], row["dimension"], [])
        )
        case.timeline.append(
            Moment(row["loop"], row["phase"], row["success_rate"], row["rollouts"])
        )
    for case in cases.values():
        case.timeline.sort(key=lambda moment: moment.order)
    return [cases[key] for key in sorted(cases)]


def _teacher(run: Run) -> dict[str, dict[int, Attempt]]:
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


def _stratified(cases: Iterable[Case], limit: int, seed: int) -> list[Case]:
    """Round robin over (outcome, family, dimension), so that rare kinds are not lost."""
    strata: dict[tuple[str, str, str], list[Case]] = defaultdict(list)
    for case in cases:
        strata[(case.outcome, case.family, case.dimension)].append(case)
    order = random.Random(seed)
    for stratum in strata.values():
        order.shuffle(stratum)
    chosen: list[Case] = []
    depth = 0
    while len(chosen) < limit and any(len(stratum) > depth for stratum in strata.values()):
        for key in sorted(strata):
            if depth < len(strata[key]) and len(chosen) < limit:
                chosen.append(strata[key][depth])
        depth += 1
    names = list(OUTCOMES)
    return sorted(chosen, key=lambda case: (case.family, names.index(case.outcome), case.id))


def _add_attempts(run: Run, cases: Sequence[Case]) -> None:
    """The first rollouts of each moment, with their scores."""
    known = {case.id: case for case in cases}
    for stage in run.finished("rollout"):
        completions = _rows_of(run, stage.prefix, "rollouts", known)
        scores = _rows_of(run, stage.prefix.replace("/rollout-", "/reward-"), "scores", known)
        if completions is None or scores is None:
            continue
        rows = completions.join(
            scores.select("sample_id", "index", "success", "reason"), on=["sample_id", "index"]
        )
        rows = rows.filter(pl.col("index") < SHOWN_ROLLOUTS).sort("sample_id", "index")
        for row in rows.iter_rows(named=True):
            moment = Moment(stage.loop, stage.phase, 0, 0)
            known[row["sample_id"]].attempts.append(
                Attempt(
                    moment.words, row["completion"], row["success"], row["reason"], moment.order
                )
            )
    for case in cases:  # the same words twice at one moment say nothing new
        case.attempts = sorted(dict.fromkeys(case.attempts), key=lambda attempt: attempt.order)


def _rows_of(run: Run, prefix: str, name: str, ids: Iterable[str]) -> pl.DataFrame | None:
    if not run.store.exists(prefix):
        return None
    paths = sorted(run.store.local(prefix).glob(f"{name}-*.parquet"))
    if not paths:
        return None
    wanted = pl.col("sample_id").is_in(list(ids))
    return pl.concat([pl.scan_parquet(path).filter(wanted) for path in paths]).collect()


def _add_samples(run: Run, cases: Sequence[Case]) -> None:
    """Question, answer and pictures; fewer pictures once the page's budget is spent."""
    places = {
        stage.manifest.inputs["pool"]
        for stage in run.stages
        if stage.manifest and "pool" in stage.manifest.inputs
    } or {str(run.recipe.get("data", {}).get("train", ""))}
    samples = _samples(run, sorted(places), {case.id for case in cases})
    spent = 0
    for case in _interleaved(cases):
        sample = samples.get(case.id)
        if sample is None:
            continue
        case.question, case.answer = sample.question, answer_words(sample.answer)
        if spent < PICTURE_BUDGET:
            policy, teacher = _last(case, 0, 1), _last(case, 2)
            case.images = pictures(sample, policy, teacher)
            spent += sum(len(image) for image in case.images)


def _last(case: Case, *places: int) -> str:
    """The last completion of the policy (places 0 and 1 of a loop) or of the teacher (2)."""
    return next((a.completion for a in reversed(case.attempts) if a.order[1] in places), "")


def _interleaved(cases: Sequence[Case]) -> list[Case]:
    """By turns of the families, so that a spent budget takes from all alike."""
    turn: Counter[str] = Counter()
    numbered = []
    for case in cases:
        numbered.append((turn[case.family], case.family, case))
        turn[case.family] += 1
    return [case for _, _, case in sorted(numbered, key=lambda item: item[:2])]


def _samples(run: Run, places: Sequence[str], ids: set[str]) -> dict[str, Sample]:
    """The samples of these ids in the pools that can be read from here."""
    found: dict[str, Sample] = {}
    for place in places:
        try:
            paths = shard_paths(resolve_input(run.store, place)) if place and ids else []
        except UserInputError:
            continue  # the page is made where the data is not: it shows the rest
        for path in paths:
            wanted = pl.col("id").is_in(list(ids - set(found)))
            for row in pl.scan_parquet(path).filter(wanted).collect().iter_rows(named=True):
                try:
                    found[row["id"]] = sample_from_row(row)
                except ValueError:
                    continue  # quarantined rows have their own table
    return found


@dataclass(frozen=True)
class Forgotten:
    """A held-out question that the base answered and the final policy does not."""

    id: str
    suite: str
    family: str
    question: str
    right: str
    before: str
    after: str
    images: list[str]


def view_forgotten(run: Run, limit: int = 24) -> list[Forgotten]:
    """Held-out questions lost since the base, spread over families."""
    base, final = run.base, run.final
    if base is None or final is None:
        return []
    lost = with_flips(base.results, final.results).filter("lost").sort("sample_id")
    place = pl.int_range(pl.len()).over("family")
    rows: list[dict[str, Any]] = (
        lost.with_columns(place=place).sort("place", "family").head(limit).to_dicts()
    )
    stage = next(s for s in run.stages if s.prefix == final.prefix)
    inputs = stage.manifest.inputs if stage.manifest else {}
    places = [inputs[name] for name in ("evaluation", "general") if name in inputs]
    samples = _samples(run, places, {row["sample_id"] for row in rows})
    shown = []
    for row in sorted(rows, key=lambda row: (row["suite"], row["family"], row["sample_id"])):
        sample = samples.get(row["sample_id"])
        shown.append(
            Forgotten(
                id=row["sample_id"],
                suite=row["suite"],
                family=row["family"],
                question=sample.question if sample else "",
                right=answer_words(sample.answer) if sample else "",
                before=row["answer_before"],
                after=row["answer"] or row["reason"],
                images=pictures(sample, row["completion"])[-1:] if sample else [],
            )
        )
    return shown
