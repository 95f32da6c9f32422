"""The weak samples that a report shows: chosen over all kinds, with pictures; and what was lost."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from pelican.evaluation.forgetting import with_flips
from pelican.report.evidence import add_attempts, corrections_of, pool_places, samples_of
from pelican.report.history import NEVER_WEAK, OUTCOMES, Case, histories
from pelican.report.pictures import answer_words, pictures
from pelican.report.run import Run

PICTURE_BUDGET = 5_500_000  # bytes of a page


@dataclass(frozen=True)
class LedgerView:
    """Cases to browse, and the counts of all weak samples by outcome and family."""

    cases: list[Case]
    total: int
    outcomes: dict[str, int]
    by_family: dict[str, dict[str, int]]


def view_ledger(run: Run, limit: int = 150) -> LedgerView:
    """All weak samples of a run, and up to `limit` of them, spread over outcome and family."""
    cases = [case for case in histories(run) if case.outcome != NEVER_WEAK]
    by_family: dict[str, dict[str, int]] = defaultdict(lambda: dict.fromkeys(OUTCOMES, 0))
    for case in cases:
        by_family[case.family][case.outcome] += 1
    chosen = _stratified(cases, limit, run.seed)
    add_attempts(run, chosen)
    add_samples(run, chosen, PICTURE_BUDGET)
    counts = Counter(case.outcome for case in cases)
    return LedgerView(
        cases=chosen,
        total=len(cases),
        outcomes={name: counts[name] for name in OUTCOMES if counts[name]},
        by_family=dict(sorted(by_family.items())),
    )


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


def add_samples(run: Run, cases: Sequence[Case], budget: int) -> None:
    """Question, answer and pictures; no more pictures once `budget` bytes of them are there."""
    ids = {case.id for case in cases}
    found = samples_of(run, pool_places(run), ids, corrections_of(run))
    samples = {sample.id: sample for sample in found}
    spent = 0
    for case in _interleaved(cases):
        sample = samples.get(case.id)
        if sample is None:
            continue
        case.question, case.answer = sample.question, answer_words(sample.answer)
        if spent < budget:
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
    samples = {s.id: s for s in samples_of(run, places, {row["sample_id"] for row in rows})}
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
