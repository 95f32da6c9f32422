"""Asking a sample of a pool's questions, once greedily and k times by drawing; kept as answers come."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter

from pelican.base.files import replacing
from pelican.base.model import Frozen, digest_of
from pelican.config.recipe import Recipe, Sampling
from pelican.data.entries import Entry
from pelican.data.pool import PoolIndex
from pelican.data.select import shuffled, stratified
from pelican.data.tables import Quarantine
from pelican.engines.base import Engine
from pelican.errors import UserInputError
from pelican.records import ChoiceAnswer, Rollout, Sample, Split, YesNoAnswer
from pelican.rewards import score

Kind = tuple[str, str, str, bool]  # family, dimension, answer, of a later loop
Row = TypeVar("Row")

PART = 32  # questions between two points of resuming
OF_A_KIND = 4  # questions that a kind needs to be looked at, rare ones too


class Attempt(Frozen):
    """One answer: what it earned, and in which form."""

    success: bool
    task: float
    whole: bool  # the format reward is 1
    think_chars: int
    cut: bool  # at the longest length
    answer: str


class Asked(Frozen):
    """One question with what was answered to it: once greedily, k times by drawing.

    `later`: its clip is longer than loop 1's horizon. `extra`: asked because its kind is rare.
    """

    id: str
    family: str
    dimension: str
    kind: str
    scene: str
    chance: float
    later: bool
    extra: bool
    greedy: Attempt
    drawn: list[Attempt]

    @property
    def successes(self) -> int:
        return sum(attempt.success for attempt in self.drawn)


class Taught(Frozen):
    """A question that the model never solved, with the tries of the teacher."""

    id: str
    scene: str
    tries: list[Attempt]


# Which questions: fresh scenes first, families by their share, rare kinds besides. Never split test.


@dataclass(frozen=True)
class Chosen:
    """What is asked of a pool, in an order of which every beginning is a fair sample.

    `usable`: the rows that a run may train on; `sealed` and `unscored` others, which are not asked.
    """

    main: list[Entry]
    extra: list[Entry]
    usable: list[Entry]
    sealed: int
    unscored: int


def choose(index: PoolIndex, recipe: Recipe, size: int) -> Chosen:
    """The sample of a pool.

    Args:
        index: The pool. Rows of split train are asked, of dev if there are none, of test never.
        recipe: Its horizons, seed and judge; without a judge free text can't be scored.
        size: Questions within loop 1's horizon; rare kinds add up to half as many.

    Raises:
        UserInputError: no row may be asked.
    """
    longest = recipe.data.horizon_s[-1]
    by_split = Counter(entry.split for entry in index.entries)
    split = Split.TRAIN if by_split[Split.TRAIN] else Split.DEV
    rows = [e for e in index.entries if e.split is split and e.span_s <= longest]
    usable = [entry for entry in rows if entry.answer_kind != "open"]
    if not usable:
        raise UserInputError(
            f"pool {index.folder} has no row of split train or dev that a rule can score, within"
            f" {longest:g} s ({by_split[Split.TEST]} are sealed by split test); give the pool that"
            " a run would train on"
        )
    ordered = _scenes_first(shuffled(usable, f"premises:{recipe.seed}"))
    now = [entry for entry in ordered if not is_later(entry, recipe)]
    main = shuffled(stratified(now, size), f"premises order:{recipe.seed}")
    return Chosen(
        main,
        _rare(ordered, main, recipe, size // 2),
        usable,
        by_split[Split.TEST],
        len(rows) - len(usable),
    )


def is_later(row: Entry | Sample, recipe: Recipe) -> bool:
    """Whether loop 1 does not see the row, whose clip is too long for it."""
    return row.span_s > recipe.data.horizon(1)


def kind_of(entry: Entry, recipe: Recipe) -> Kind:
    """What stands for a concept: the finest grouping that every pool has."""
    return entry.family, entry.dimension, entry.answer_kind, is_later(entry, recipe)


def _scenes_first(entries: Sequence[Entry]) -> list[Entry]:
    """One row of every scene, then a second of each, and so on."""
    seen: Counter[str] = Counter()
    numbered = []
    for entry in entries:
        numbered.append((seen[entry.scene], entry))
        seen[entry.scene] += 1
    return [entry for _, entry in sorted(numbered, key=lambda pair: pair[0])]


def _rare(
    ordered: Sequence[Entry], main: Sequence[Entry], recipe: Recipe, size: int
) -> list[Entry]:
    """Rows of the kinds that `main` has fewer of than OF_A_KIND, by turns of the kinds."""
    there = Counter(kind_of(entry, recipe) for entry in main)
    taken = {entry.id for entry in main}
    waiting: defaultdict[Kind, list[Entry]] = defaultdict(list)
    for entry in ordered:
        kind = kind_of(entry, recipe)
        if entry.id not in taken and there[kind] + len(waiting[kind]) < OF_A_KIND:
            waiting[kind].append(entry)
    turns = [(turn, kind, e) for kind, rows in waiting.items() for turn, e in enumerate(rows)]
    turns.sort(key=lambda item: (item[0], item[1]))
    return [entry for _, _, entry in turns[:size]]


def chance_of(sample: Sample) -> float:
    """What blind guessing earns: as the row says, and at least that of its options."""
    match sample.answer:
        case ChoiceAnswer(options=options):
            return max(sample.chance, 1 / len(options))
        case YesNoAnswer():
            return max(sample.chance, 0.5)
        case _:
            return sample.chance


# Asking: parts are kept in a folder, so that the same command goes on, or asks more.


@dataclass
class Clock:
    """Time that may be spent; a part is begun only before it is over, but one always is."""

    minutes: float
    began: float = field(default_factory=time.monotonic)

    def over(self, share: float) -> bool:
        """Whether this share of the time is spent."""
        return time.monotonic() - self.began > 60 * self.minutes * share


Report = Callable[[str, int, int], None]  # what is asked, how many are answered, of how many


@dataclass
class Probe:
    """One model asked about pools; `folder` keeps the answers by what they depend on."""

    folder: Path
    recipe: Recipe
    clock: Clock
    report: Report
    left_out: Quarantine = field(default_factory=Quarantine)

    def ask(
        self,
        name: str,
        index: PoolIndex,
        entries: Sequence[Entry],
        engine: Callable[[], Engine],
        *,
        attempts: int,
        until: float,
        extra: bool = False,
    ) -> list[Asked]:
        """The questions with their answers, as far as the share `until` of the time reaches."""
        sampling, greedy = self.recipe.rollout.sampling, self.recipe.eval.sampling

        def make(samples: Sequence[Sample]) -> Iterator[Asked]:
            firsts = engine().generate(samples, greedy, 1, self.recipe.seed)
            first = [group[0] for group in firsts]
            groups = engine().generate(samples, sampling, attempts, self.recipe.seed)
            for sample, one, group in zip(samples, first, groups, strict=True):
                yield Asked(
                    id=sample.id,
                    family=sample.family,
                    dimension=sample.dimension,
                    kind=sample.answer.kind,
                    scene=sample.scene,
                    chance=chance_of(sample),
                    later=is_later(sample, self.recipe),
                    extra=extra,
                    greedy=self._attempt(sample, one),
                    drawn=[self._attempt(sample, rollout) for rollout in group],
                )

        return self._parts(name, index, entries, make, TypeAdapter(list[Asked]), until, attempts)

    def teach(
        self,
        index: PoolIndex,
        entries: Sequence[Entry],
        engine: Callable[[], Engine],
        *,
        tries: int,
        until: float,
    ) -> list[Taught]:
        """What the teacher says to these questions."""
        sampling: Sampling = self.recipe.distill.sampling

        def make(samples: Sequence[Sample]) -> Iterator[Taught]:
            groups = engine().generate(samples, sampling, tries, self.recipe.seed)
            for sample, group in zip(samples, groups, strict=True):
                said = [self._attempt(sample, rollout) for rollout in group]
                yield Taught(id=sample.id, scene=sample.scene, tries=said)

        kind = TypeAdapter(list[Taught])
        return self._parts("teacher", index, entries, make, kind, until, tries)

    def _parts(
        self,
        name: str,
        index: PoolIndex,
        entries: Sequence[Entry],
        make: Callable[[Sequence[Sample]], Iterator[Row]],
        kind: TypeAdapter[list[Row]],
        until: float,
        attempts: int,
    ) -> list[Row]:
        """The rows of all parts that are there or can be made in time; a damaged part is made again."""
        found: list[Row] = []
        for start in range(0, len(entries), PART):
            part = entries[start : start + PART]
            file = self.folder / f"{name}-{digest_of([attempts, [e.id for e in part]])}.json"
            rows = _read(file, kind)
            if rows is None:
                if start and self.clock.over(until):
                    break
                pixels = self.recipe.data.max_pixels
                samples = list(index.load(part, max_pixels=pixels, quarantine=self.left_out))
                rows = list(make(samples)) if samples else []
                file.parent.mkdir(parents=True, exist_ok=True)
                with replacing(file) as new:
                    new.write_bytes(kind.dump_json(rows))
            found += rows
            self.report(name, start + len(part), len(entries))
        return found

    def _attempt(self, sample: Sample, rollout: Rollout) -> Attempt:
        given = score(sample, rollout.completion, self.recipe.reward.honest, index=rollout.index)
        return Attempt(
            success=given.success,
            task=given.task,
            whole=given.format == 1.0,
            think_chars=given.think_chars,
            cut=rollout.finish == "length",
            answer=given.answer,
        )


def _read(file: Path, kind: TypeAdapter[list[Row]]) -> list[Row] | None:
    try:
        return kind.validate_json(file.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
