"""What to record next: what RL, teacher and SFT left unsolved, in groups of like questions.

A group is a capability dimension, a family and questions that are near each other by the features
which distillation retrieves related samples with. Held-out questions are in no group: who recorded
episodes after them would train on the test.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import numpy as np
from pydantic import Field

from pelican.base.model import Frozen
from pelican.data.entries import Entry
from pelican.data.pool import read_index
from pelican.dppo.retrieval import TextEmbedder, Vectors
from pelican.errors import DamagedError, UserInputError
from pelican.registry.models import resolve_model
from pelican.report.history import (
    Case,
    Habit,
    corrections_of,
    habits,
    histories,
    interest,
    pool_places,
)
from pelican.report.run import Run, open_run
from pelican.report.texts import Text, texts_of
from pelican.runs.layout import intake_prefix
from pelican.stages.stage import resolve_input

# Why a sample counts as unsolved, in words, and what helps.

UNSOLVED = ("teacher_failed", "forgotten", "weak")
REASONS = {
    "teacher": "the teacher fails, too",
    "taught": "taught, and still never right",
    "forgotten": "was right once",
    "untaught": "never right, not taught yet",
}
ADVICE = {
    "label": "first look at the labels: policy and teacher agree on another answer",
    "teacher": "record new episodes, and have people answer these questions: the teacher can't",
    "taught": "record more and other scenes: the answers that were taught did not carry over",
    "forgotten": "practise what is there again, or replay more of it, before recording",
    "untaught": "let an SFT phase teach it first; record if that fails",
}
DOUBTED = 5.0  # interest of a sample from which its label is in doubt; see `history.interest`
NEAR = 0.45  # cosine of two questions that ask alike
MOST_GROUPS = 8  # of one dimension and family
COMMON = 0.6  # of a group's questions hold a word that its pattern shows
EXAMPLES = 3
QUESTIONS = 5
ASKS = 200  # characters of a pattern


class Row(Frozen):
    """One unsolved sample, as the table has it. Where the pool is away, texts and places are empty."""

    weakness: int
    dimension: str
    family: str
    asks: str
    sample_id: str
    reason: str
    last_rate: float
    last_moment: str
    question: str = ""
    answer: str = ""
    policy_says: str = ""
    teacher_says: str = ""
    label_in_doubt: bool = False
    source: str = ""
    scene: str = ""
    pool: str = ""
    shard: str = ""
    row: int = -1


class Weakness(Frozen):
    """A group of unsolved samples. `practised`: samples of the run that ask alike, solved ones too."""

    number: int
    dimension: str
    family: str
    asks: str = Field(description="the words that its questions share, with … for the others")
    unsolved: int
    practised: int
    scenes: int
    in_doubt: int
    reasons: dict[str, int]
    advice: str
    questions: list[str]
    examples: list[Row]

    @property
    def share(self) -> float:
        return self.unsolved / max(1, self.practised)


class Weaknesses(Frozen):
    """All of a run, the largest first. `away`: pools that can't be read from here."""

    run: str
    practised: int
    unsolved: int
    taught: int = Field(description="taught and not seen again: solved or not, nobody knows")
    loops: list[int]
    away: list[str]
    weaknesses: list[Weakness]


@dataclass
class Found:
    """The groups, with every unsolved sample and what tells a further question's group."""

    summary: Weaknesses
    rows: list[Row]
    leaders: dict[int, list[Entry]] = field(default_factory=dict)


def find_weaknesses(run: Run) -> Found:
    """What the run has left unsolved so far, whether it ended, goes on or failed."""
    cases = histories(run)
    open_cases = [case for case in cases if case.outcome in UNSOLVED]
    known, away, shards = _entries(run, {case.id for case in cases})
    texts = texts_of(run, {case.id for case in open_cases}, corrections_of(run))
    said = habits(run, {case.id for case in open_cases})
    cells: defaultdict[tuple[str, str], list[Case]] = defaultdict(list)
    for case in cases:
        cells[case.dimension, case.family].append(case)
    groups: list[_Group] = []
    for (dimension, family), members in sorted(cells.items()):
        groups += _split(dimension, family, members, known)
    groups.sort(key=lambda g: (-len(g.unsolved), g.dimension, g.family, g.asks))
    weaknesses, rows = [], []
    leaders: dict[int, list[Entry]] = {}
    for number, group in enumerate(groups, 1):
        own = [_row(number, group, case, known, texts, said, shards) for case in group.unsolved]
        own.sort(key=lambda row: (-row.label_in_doubt, row.reason, row.sample_id))
        rows += own
        weaknesses.append(_weakness(number, group, own))
        leaders[number] = [known[c.id].entry for c in group.unsolved if c.id in known]
    summary = Weaknesses(
        run=run.name,
        practised=len(cases),
        unsolved=len(open_cases),
        taught=sum(case.outcome == "taught" for case in cases),
        loops=sorted({moment.loop for case in cases for moment in case.timeline}),
        away=away,
        weaknesses=weaknesses,
    )
    return Found(summary, rows, leaders)


# Where the samples are: the pools that can be read from here.


@dataclass(frozen=True)
class _Place:
    entry: Entry
    pool: str


def _entries(
    run: Run, ids: set[str]
) -> tuple[dict[str, _Place], list[str], dict[str, Sequence[Path]]]:
    """The rows of these ids, the pools that can't be read, and the shards of those that can."""
    found: dict[str, _Place] = {}
    away: list[str] = []
    shards: dict[str, Sequence[Path]] = {}
    for place in pool_places(run):
        try:
            index = read_index(resolve_input(run.store, place), corrections_of(run))
        except (UserInputError, DamagedError):
            away.append(place)
            continue
        shards[place] = index.shards
        for entry in index.with_ids(ids - found.keys()):
            found[entry.id] = _Place(entry, place)
    return found, away if ids - found.keys() else [], shards


# Groups: within a dimension and family, questions that are near each other.


@dataclass
class _Group:
    dimension: str
    family: str
    unsolved: list[Case]
    practised: int
    asks: str


def _split(
    dimension: str, family: str, members: Sequence[Case], known: Mapping[str, _Place]
) -> list[_Group]:
    """The groups of one dimension and family; what the pools lack is a group without words."""
    here = [case for case in members if case.id in known]
    gone = [case for case in members if case.id not in known]
    groups = []
    entries = [known[case.id].entry for case in here]
    labels = cluster(entries, [case.outcome in UNSOLVED for case in here])
    for label in sorted(set(labels)):
        own = [case for case, at in zip(here, labels, strict=True) if at == label]
        unsolved = [case for case in own if case.outcome in UNSOLVED]
        if unsolved:
            asks = pattern([known[case.id].entry.question for case in unsolved])
            groups.append(_Group(dimension, family, unsolved, len(own), asks))
    lost = [case for case in gone if case.outcome in UNSOLVED]
    if lost:
        groups.append(_Group(dimension, family, lost, len(gone), ""))
    return groups


def cluster(entries: Sequence[Entry], unsolved: Sequence[bool]) -> list[int]:
    """A group's number for each entry: that of the nearest of a few unsolved ones that lie far apart."""
    asked = np.flatnonzero(unsolved)
    if not len(asked):
        return [0] * len(entries)
    vectors = TextEmbedder().embed(entries)
    leaders = _far_apart(vectors[asked])
    nearest = np.argmax(vectors @ vectors[asked[leaders]].T, axis=1)
    return [int(label) for label in nearest]


def _far_apart(vectors: Vectors) -> list[int]:
    """Rows that are leaders: the most central, then always the one that is farthest from all of them."""
    first = int(np.argmax(vectors @ vectors.mean(axis=0)))
    leaders, nearest = [first], vectors @ vectors[first]
    while len(leaders) < MOST_GROUPS:
        farthest = int(np.argmin(nearest))
        if nearest[farthest] >= NEAR:
            break
        leaders.append(farthest)
        nearest = np.maximum(nearest, vectors @ vectors[farthest])
    return leaders


def pattern(questions: Sequence[str]) -> str:
    """The question that shares most with the others, with … for its words that most of them lack."""
    counts = Counter(word for question in questions for word in set(question.split()))

    def shared(question: str) -> float:
        words = question.split()
        return sum(counts[word] for word in words) / max(1, len(words))

    model = max(sorted(set(questions)), key=shared)
    words = [w if counts[w] >= COMMON * len(questions) else "…" for w in model.split()]
    if 2 * words.count("…") > len(words):  # of two ways to ask one is shown, for neither is common
        words = model.split()
    return " ".join(word for word, _ in groupby(words))[:ASKS]


# Rows and sums.


def _row(
    number: int,
    group: _Group,
    case: Case,
    known: Mapping[str, _Place],
    texts: Mapping[str, Text],
    said: Mapping[str, Habit],
    shards: Mapping[str, Sequence[Path]],
) -> Row:
    place, text, habit = known.get(case.id), texts.get(case.id), said.get(case.id)
    refused = [attempt for attempt in case.verdicts.values() if not attempt.success]
    score, _ = interest(case, habit)
    last = case.timeline[-1]
    entry = place.entry if place else None
    return Row(
        weakness=number,
        dimension=group.dimension,
        family=group.family,
        asks=group.asks,
        sample_id=case.id,
        reason=REASONS[_reason(case)],
        last_rate=last.success_rate,
        last_moment=last.words,
        question=text.question if text else "",
        answer=text.answer if text else "",
        policy_says=habit.answer if habit else "",
        teacher_says=refused[-1].completion if refused else "",
        label_in_doubt=score >= DOUBTED,
        source=case.source,
        scene=entry.scene if entry else "",
        pool=place.pool if place else "",
        shard=shards[place.pool][place.entry.shard].name if place else "",
        row=entry.row if entry else -1,
    )


def _reason(case: Case) -> str:
    """Which of REASONS: what was tried on the sample, by the loops so far."""
    if case.outcome == "forgotten":
        return "forgotten"
    if any(attempt.success for attempt in case.verdicts.values()):
        return "taught"
    return "teacher" if case.verdicts else "untaught"


def _weakness(number: int, group: _Group, rows: Sequence[Row]) -> Weakness:
    reasons = Counter(_reason(case) for case in group.unsolved)
    doubted = sum(row.label_in_doubt for row in rows)
    advice = ADVICE[reasons.most_common(1)[0][0]]
    if doubted:
        advice = f"{ADVICE['label']} to {doubted} of {len(rows)}; then {advice}"
    questions = Counter(row.question for row in rows if row.question)
    return Weakness(
        number=number,
        dimension=group.dimension,
        family=group.family,
        asks=group.asks,
        unsolved=len(rows),
        practised=group.practised,
        scenes=len({row.scene for row in rows if row.scene}),
        in_doubt=doubted,
        reasons={name: reasons[name] for name in REASONS if reasons[name]},
        advice=advice,
        questions=[question for question, _ in questions.most_common(QUESTIONS)],
        examples=_spread(rows),
    )


def _spread(rows: Sequence[Row]) -> list[Row]:
    """A few rows of different scenes."""
    by_scene = {row.scene or row.sample_id: row for row in reversed(rows)}
    return list(reversed(by_scene.values()))[:EXAMPLES]


# New data: which of it asks what a run left unsolved.


class Matched(Frozen):
    """New rows by the weakness of an earlier run that they are nearest to."""

    run: str
    rows: int
    by_weakness: dict[int, int]
    summary: Weaknesses

    @property
    def elsewhere(self) -> int:
        """Rows that ask nothing which the run left unsolved."""
        return self.rows - sum(self.by_weakness.values())


def match(found: Found, entries: Iterable[Entry]) -> Matched:
    """New rows, each to the nearest question of its dimension and family that was left unsolved.

    A row that is not as near to it as questions of one group are to each other is of no weakness.
    """
    new: defaultdict[tuple[str, str], list[Entry]] = defaultdict(list)
    for entry in entries:
        new[entry.dimension.value, entry.family.value].append(entry)
    counts: Counter[int] = Counter()
    cells: defaultdict[tuple[str, str], list[tuple[int, Entry]]] = defaultdict(list)
    for weakness in found.summary.weaknesses:
        for entry in found.leaders[weakness.number]:
            cells[weakness.dimension, weakness.family].append((weakness.number, entry))
    for cell, rows in new.items():
        old = cells.get(cell, [])
        if not old:
            continue
        vectors = TextEmbedder().embed([*(entry for _, entry in old), *rows])
        cosines = vectors[len(old) :] @ vectors[: len(old)].T
        for best, near in zip(np.argmax(cosines, axis=1), np.max(cosines, axis=1), strict=True):
            if near >= NEAR:
                counts[old[int(best)][0]] += 1
    return Matched(
        run=found.summary.run,
        rows=sum(len(rows) for rows in new.values()),
        by_weakness=dict(sorted(counts.items())),
        summary=found.summary,
    )


def match_new(run: Run) -> Matched | str | None:
    """The new rows of a retraining by the weaknesses of the run that its parent is of.

    Returns:
        None if `run` is no retraining or has not taken its data in; a sentence if nothing can be
        matched, such as where the parent was imported from elsewhere.
    """
    name = run.recipe.get("retrain", {}).get("parent")
    if not name:
        return None
    try:
        index = read_index(resolve_input(run.store, f"{intake_prefix(run.name)}/train"))
    except (UserInputError, DamagedError):
        return None
    try:
        parent = resolve_model(run.store, str(name)).lineage.run
        if parent is None:
            return f"{name} was not made by a run of this store, so the new rows match no weakness of one"
        found = find_weaknesses(open_run(run.store, parent))
    except (UserInputError, DamagedError) as error:
        return f"the new rows can't be matched to what {name} could not do: {error}"
    if not any(found.leaders.values()):
        return f"nothing of run {parent}, which made {name}, is left unsolved that can be read from here"
    return match(found, index.entries)
