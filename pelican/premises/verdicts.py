"""What the answers of a sample say about the six premises, and about which phase would pay.

Every verdict is read from a 95 % interval: a premise holds if the whole interval is on the right side
of what it needs, it does not if the whole interval is on the other, and else so many questions can't tell.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeVar

from pydantic import Field

from pelican.base.model import Frozen
from pelican.config.recipe import Recipe
from pelican.dppo.difficulty import at_least
from pelican.dppo.distillation import SPARE, Origin, shares
from pelican.evaluation.attempts import (
    VOTED,
    majority,
    paired_interval,
    pass_at,
    share_interval,
)
from pelican.premises.probe import Asked, Kind, Taught

Answer = Literal["holds", "does not hold", "can't be told"]
Pays = Literal["would pay", "would not pay", "can't be told"]
Value = Callable[[Asked], float]
One = TypeVar("One", Asked, Taught)

# What each premise needs; docs/premises.md says where each number is from.

FORMAT = 0.95  # of the answers are a thought and then an answer
TRIES = 8  # k of p@k: a group of RL
GAP = 0.10  # p@k above greedy: the least that there is to learn from
VOTED_SHARE = 0.25  # of that gap that a vote must win if it is skill
LUCK = 0.10  # probability under guessing from which on successes are not believed
LOW_CHANCE = 0.10  # of a question of which failing every time says something
MISSING = 0.05  # of the questions are never solved
TEACHER = 0.85  # of the teacher's tries on those are right
FEW = 3.0  # weak questions of a kind that loop 1 has to come upon to teach it
HIDDEN = 0.25  # of the weak kinds, or of the rows, that loop 1 does not see
DRAWS = 1.0  # of one prompt in a phase of RL
CALLS = 1 / 3  # of the teacher, for each weak question
ABOVE_CHANCE = 0.30  # of the general score
PAYS = 0.03  # of the questions, gained: worth a phase
MOSTLY = 0.5  # of the questions are not weak: then it saves calls to pick the weak ones


class Measure(Frozen):
    """A number with its 95 % interval over `n` questions. Shares are 0 … 1, differences -1 … 1."""

    name: str
    value: float
    low: float
    high: float
    n: int

    def at_least(self, needed: float) -> Answer:
        if self.low >= needed:
            return "holds"
        return "does not hold" if self.high < needed else "can't be told"

    def at_most(self, limit: float) -> Answer:
        if self.high <= limit:
            return "holds"
        return "does not hold" if self.low > limit else "can't be told"

    def __str__(self) -> str:
        """In percent, with the interval."""
        return f"{100 * self.value:.1f} % ({100 * self.low:.0f} to {100 * self.high:.0f})"

    @property
    def points(self) -> str:
        """A difference in points, with the interval."""
        return f"{100 * self.value:+.1f} points ({100 * self.low:+.0f} to {100 * self.high:+.0f})"

    def scaled(self, factor: float) -> Measure:
        return self.model_copy(
            update={name: factor * getattr(self, name) for name in ("value", "low", "high")}
        )


class Verdict(Frozen):
    """One premise: whether it holds, why in words, and what was measured."""

    name: str
    claim: str
    verdict: Answer
    because: str
    measures: list[Measure] = Field(default_factory=list)


class Phase(Frozen):
    """One part of DPPO: whether it would pay here, and why."""

    name: str
    verdict: Pays
    because: str


class Premises(Frozen):
    """The verdicts, premise by premise, and what follows for each part of DPPO."""

    premises: list[Verdict]
    phases: list[Phase]
    families: dict[str, list[Measure]]


@dataclass(frozen=True)
class Evidence:
    """What was asked, and what the pool is.

    `general` is empty without a general pool, `taught` None without a teacher. `pool`: how many rows of
    each kind a run could train on; `unscored`: rows beside them that no rule can score.
    """

    asked: Sequence[Asked]
    general: Sequence[Asked]
    taught: Sequence[Taught] | None
    pool: dict[Kind, int]
    unscored: int
    recipe: Recipe


def judge(evidence: Evidence) -> Premises:
    """The six premises by the evidence; two of them have two parts."""
    found = Found(evidence)
    premises = [
        _format(found),
        _headroom(found),
        _missing(found),
        _sequence(found),
        _prompts(found),
        _calls(found),
        _forgetting(found),
    ]
    families = {
        name: _table(found, [one for one in found.main if one.family == name])
        for name in sorted({one.family for one in found.main})
    }
    return Premises(premises=premises, phases=_phases(found, premises), families=families)


# What is measured of a question, and over questions.


def mixed_of(tries: int, one: Asked) -> float:
    """The chance that of `tries` answers some succeed and some do not: that it is practised."""
    all_right = 1 - pass_at(tries, len(one.drawn) - one.successes, len(one.drawn))
    return pass_at(tries, one.successes, len(one.drawn)) - all_right


def weak_of(tries: int, one: Asked) -> float:
    """The chance that none of `tries` answers succeeds."""
    return 1 - pass_at(tries, one.successes, len(one.drawn))


def is_skill(one: Asked) -> bool:
    """Whether it succeeds more often than guessing would."""
    return at_least(one.successes, len(one.drawn), one.chance) < LUCK


def never_solved(one: Asked) -> bool:
    """No try succeeds at a question that can't be guessed either."""
    return one.successes == 0 and one.chance <= LOW_CHANCE


def _once(one: Asked) -> float:
    return one.successes / len(one.drawn)


def _vote(one: Asked) -> float:
    return majority([a.answer for a in one.drawn], [float(a.success) for a in one.drawn])


def share(name: str, asked: Sequence[One], value: Callable[[One], float]) -> Measure:
    """The mean of a value in 0 … 1."""
    mean = _mean(float(value(one)) for one in asked)
    low, high = share_interval(mean, len({one.scene for one in asked}))
    return Measure(name=name, value=mean, low=low, high=high, n=len(asked))


def moved(name: str, asked: Sequence[Asked], value: Value) -> Measure:
    """The mean of a difference within each question."""
    values, scenes = [float(value(one)) for one in asked], [one.scene for one in asked]
    mean, low, high = paired_interval(values, scenes)
    return Measure(name=name, value=mean, low=low, high=high, n=len(asked))


def style(asked: Sequence[Asked]) -> Measure:
    """How much more often tries with a thought succeed, of questions that had both kinds of tries."""

    def apart(one: Asked) -> float:
        thought = _mean(float(a.success) for a in one.drawn if a.think_chars)
        return thought - _mean(float(a.success) for a in one.drawn if not a.think_chars)

    both = [one for one in asked if len({a.think_chars > 0 for a in one.drawn}) == 2]
    return moved("with a thought - without", both, apart)


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found) if found else 0.0


class Found:
    """The measures that several verdicts read, each taken once."""

    def __init__(self, evidence: Evidence) -> None:
        self.evidence, self.recipe = evidence, evidence.recipe
        self.main = [one for one in evidence.asked if not one.extra]
        self.tries = min((len(one.drawn) for one in self.main), default=0)
        self.k = min(TRIES, self.tries)

    @cached_property
    def gap(self) -> Measure:
        return moved(f"p@{self.k} - greedy", self.main, self._gap)

    def _gap(self, one: Asked) -> float:
        return pass_at(self.k, one.successes, len(one.drawn)) - one.greedy.success

    @cached_property
    def voted(self) -> list[Asked]:
        """Questions whose tries can agree, at which there is something to win."""
        return [one for one in self.main if one.kind in VOTED]

    @cached_property
    def vote(self) -> Measure:
        return moved("vote - greedy", self.voted, lambda one: _vote(one) - one.greedy.success)

    @cached_property
    def voted_gap(self) -> Measure:
        return moved(f"p@{self.k} - greedy, where tries can vote", self.voted, self._gap)

    @cached_property
    def mixed(self) -> Measure:
        """Of the questions, those that the recipe's rollouts would find mixed, and so practise."""
        return share(f"mixed in {self.rolled}", self.main, lambda one: mixed_of(self.rolled, one))

    @cached_property
    def skilled(self) -> Measure:
        """The same without those that guessing explains."""
        return share(
            "mixed beyond guessing",
            self.main,
            lambda one: mixed_of(self.rolled, one) * is_skill(one),
        )

    @property
    def rolled(self) -> int:
        return min(self.recipe.rollout.samples, self.tries)

    @cached_property
    def never(self) -> Measure:
        return share(f"never solved in {self.tries}", self.main, never_solved)

    @cached_property
    def weak(self) -> Measure:
        """Of the questions, those that mining would call weak."""
        tries = self.mining_tries
        return share(
            f"0 of {tries}",
            self.main,
            lambda one: weak_of(tries, one),
        )

    @property
    def mining_tries(self) -> int:
        return min(self.recipe.rollout.weak_samples, self.tries)

    @cached_property
    def style(self) -> Measure:
        return style(self.main)

    @cached_property
    def format(self) -> Measure:
        return share(
            "thought, then answer", self.main, lambda one: _mean(a.whole for a in one.drawn)
        )

    @cached_property
    def teacher(self) -> Measure | None:
        """Of the teacher's tries at what is never solved, those that are right; None without tries."""
        taught = self.evidence.taught
        if not taught:
            return None
        return share("teacher, a try", taught, lambda one: _mean(a.success for a in one.tries))

    @cached_property
    def rows(self) -> int:
        """Rows of the pool that loop 1 may draw."""
        return sum(n for kind, n in self.evidence.pool.items() if not kind[3])

    @cached_property
    def mined(self) -> int:
        """Rows that loop 1 looks at before it asks the teacher: those of RL, and as many fresh ones."""
        size = self.recipe.data.samples_per_loop
        return self.rows if size is None else min(2 * size, self.rows)


def _table(found: Found, asked: Sequence[Asked]) -> list[Measure]:
    """Greedy and sampled scores beside each other."""
    return [
        share("greedy", asked, lambda one: one.greedy.success),
        share("p@1", asked, _once),
        share(f"p@{found.k}", asked, lambda one: pass_at(found.k, one.successes, len(one.drawn))),
        share(f"vote of {found.tries}", [o for o in asked if o.kind in VOTED], _vote),
        share("guessing", asked, lambda one: one.chance),
    ]


# P1 to P6. Each reads the intervals and says one thing.


def _format(found: Found) -> Verdict:
    main = found.main
    thoughts = _mean(a.think_chars for one in main for a in one.drawn)
    cut = _mean(float(a.cut) for one in main for a in one.drawn)
    words = (
        f"{found.format} of its sampled answers are a thought and then an answer; needed are"
        f" {100 * FORMAT:.0f} %. A thought has {thoughts:.0f} characters in the mean"
    )
    if found.style.n and found.style.low > 0:
        words += f"; with one it is right {found.style.points} more often than without"
    if cut >= 0.02:
        limit = found.recipe.rollout.sampling.max_tokens
        words += (
            f". {100 * cut:.0f} % are cut off at {limit} tokens: raise rollout.sampling.max_tokens"
        )
    greedy = share("thought, then answer, greedy", main, lambda one: one.greedy.whole)
    return Verdict(
        name="P1",
        claim="the model reasons, in the format that the reward asks for",
        verdict=found.format.at_least(FORMAT),
        because=words,
        measures=[found.format, greedy, found.style],
    )


def _headroom(found: Found) -> Verdict:
    """Skill that is unsteady has the right answer as its mode: then a vote finds it. A doubt has not."""
    enough, vote = found.gap.at_least(GAP), found.vote
    needed = found.voted_gap.scaled(VOTED_SHARE)
    score = share("greedy", found.main, lambda one: one.greedy.success)
    words = f"greedy is right in {score}, one of {found.k} tries by {found.gap.points} more often"
    verdict: Answer
    if enough == "does not hold":
        verdict, why = (
            "does not hold",
            f"less than {100 * GAP:.0f} points are nothing to learn from",
        )
    elif vote.n == 0:
        verdict, why = "can't be told", "no question has answers that tries could agree on"
    elif vote.high < needed.low:
        verdict = "does not hold"
        why = (
            f"but the commonest of {found.tries} answers only by {vote.points}: right answers are"
            " draws from a doubt, not an unsteady skill"
        )
    elif vote.low > 0 and enough == "holds":
        verdict = "holds"
        why = f"and the commonest of {found.tries} answers by {vote.points}: the skill is there"
    else:
        verdict = "can't be told"
        why = f"the commonest of {found.tries} answers by {vote.points}"
    mixed = (
        f"{found.mixed} of the questions would be practised, being right now and then;"
        f" {found.skilled} with guessing taken out"
    )
    return Verdict(
        name="P2",
        claim="RL has headroom, and it is skill rather than guessing",
        verdict=verdict,
        because=f"{words}, {why}. {mixed}",
        measures=[*_table(found, found.main), found.gap, vote, found.mixed, found.skilled],
    )


def _missing(found: Found) -> Verdict:
    missing, teacher = found.never.at_least(MISSING), found.teacher
    words = (
        f"{found.never} of the questions are never solved in {found.tries} tries though none could be"
        f" guessed (needed: {100 * MISSING:.0f} %)"
    )
    measures = [found.never]
    verdict: Answer
    if teacher is None:
        without = found.evidence.taught is None
        verdict = "does not hold" if missing == "does not hold" else "can't be told"
        words += "; no teacher was asked, --teacher names one" if without else ""
    else:
        measures.append(teacher)
        knows = teacher.at_least(TEACHER)
        words += f"; on {teacher.n} of those the teacher is right in {teacher} of its tries"
        words += f" (needed: {100 * TEACHER:.0f} %)"
        both = {missing, knows}
        verdict = (
            "does not hold"
            if "does not hold" in both
            else "can't be told"
            if "can't be told" in both
            else "holds"
        )
    return Verdict(
        name="P3",
        claim="concepts are missing, and the teacher has them",
        verdict=verdict,
        because=words,
        measures=measures,
    )


def _sequence(found: Found) -> Verdict:
    """A later loop has work of its own if loop 1 could not find a weakness, or did not see its rows."""
    by_kind: defaultdict[Kind, list[Asked]] = defaultdict(list)
    for one in found.evidence.asked:
        by_kind[one.family, one.dimension, one.kind, one.later].append(one)
    weak = {kind: rows for kind, rows in by_kind.items() if any(map(never_solved, rows))}
    drawn = found.mined / found.rows if found.rows else 0.0
    # Long clips are looked at by their rows: most of them ask what short ones ask.
    kinds = {kind: rows for kind, rows in weak.items() if not kind[3]}
    finds = [
        _finds(found.evidence.pool.get(kind, 0) * drawn, found.mining_tries, rows)
        for kind, rows in kinds.items()
    ]
    # Kinds of the pool that no question here is of may be weak and rare, or not.
    unmet = sum(kind not in by_kind and not kind[3] for kind in found.evidence.pool)
    tail = Measure(
        name="weak kinds that loop 1 misses",
        value=_mean(float(one.value < FEW) for one in finds),
        low=_mean([*(float(one.high < FEW) for one in finds), *[0.0] * unmet]),
        high=_mean([*(float(one.low < FEW) for one in finds), *[1.0] * unmet]),
        n=len(finds),
    )
    everything = sum(found.evidence.pool.values())
    later = (everything - found.rows) / everything if everything else 0.0
    verdict = "holds" if later >= HIDDEN else tail.at_least(HIDDEN)
    hidden = sum(one.value < FEW for one in finds)
    return Verdict(
        name="P4",
        claim="weaknesses come one after another",
        verdict=verdict,
        because=(
            f"{len(kinds)} kinds of questions hold some that are never solved. Loop 1 looks at"
            f" {found.mined:,} of {found.rows:,} rows; of {hidden} of those kinds it would find fewer"
            f" than {FEW:.0f} weak questions: {tail}, needed are {100 * HIDDEN:.0f} %."
            f"{f' {unmet} kinds of the pool were not met here: ask more.' if unmet else ''}"
            f" {100 * later:.0f} % of the pool are clips that only later loops see"
        ),
        measures=[tail],
    )


def _finds(seen: float, tries: int, rows: Sequence[Asked]) -> Measure:
    """Of `seen` questions of a kind, those that mining with so many tries calls weak."""
    return share("finds", rows, lambda one: weak_of(tries, one)).scaled(seen)


def _prompts(found: Found) -> Verdict:
    recipe = found.recipe
    size = min(recipe.data.samples_per_loop or found.rows, found.rows)
    groups = recipe.rl.max_steps * recipe.rl.prompts_per_step * recipe.rl.oversample
    distinct = found.mixed.scaled(size)
    draws = Measure(
        name="draws of a prompt in a phase",
        value=_ratio(groups, distinct.value),
        low=_ratio(groups, distinct.high),
        high=_ratio(groups, distinct.low),
        n=found.mixed.n,
    )
    whole = found.mixed.scaled(found.rows)
    fresh = 2 * size * recipe.loops
    words = (
        f"a loop rolls out {size:,} rows, of which some {distinct.value:,.0f} ({distinct.low:,.0f} to"
        f" {distinct.high:,.0f}) are practice; a phase of RL draws {groups:,.0f} groups from them, each"
        f" {draws.value:.1f} times ({draws.low:.1f} to {draws.high:.1f}; needed: at most"
        f" {DRAWS:.0f}). The pool has {found.rows:,} rows that a rule scores, some"
        f" {whole.value:,.0f} of them practice"
    )
    if fresh > found.rows:
        words += f"; {recipe.loops} loops want {fresh:,} fresh ones"
    if found.evidence.unscored:
        words += (
            f"; {found.evidence.unscored:,} rows of free text need a judge, and are not counted"
        )
    return Verdict(
        name="P5a",
        claim="prompts are plentiful",
        verdict=draws.at_most(DRAWS),
        because=words,
        measures=[_finite(draws)],
    )


def _calls(found: Found) -> Verdict:
    """What the recipe would ask the teacher, for each weak question."""
    config = found.recipe.distill
    weak = found.weak.scaled(found.mined)
    there: dict[Origin, int] = {
        "weak": round(weak.value),
        "assoc": round(config.neighbours * weak.value),
        "uniform": found.rows,
        "general": found.rows,
    }
    spare = SPARE if config.max_rows is not None else 1.0
    wanted = {o: math.ceil(spare * n) for o, n in shares(there, config, copies=1).items()}
    if "weak" in wanted:  # all of them are asked about
        wanted["weak"] = round(weak.value)
    asked = min(sum(wanted.values()), config.questions or math.inf)
    calls = config.tries * asked
    per = Measure(
        name="calls for each weak question",
        value=_ratio(calls, weak.value),
        low=_ratio(calls, weak.high),
        high=_ratio(calls, weak.low),
        n=found.weak.n,
    )
    return Verdict(
        name="P5b",
        claim="the teacher is scarce",
        verdict=per.at_most(CALLS),
        because=(
            f"of {found.mined:,} mined rows some {weak.value:,.0f} ({weak.low:,.0f} to"
            f" {weak.high:,.0f}) are weak, and the recipe calls the teacher some {calls:,.0f} times a"
            f" loop: {per.value:.0f} times for each ({per.low:.0f} to {per.high:.0f}; needed: at most"
            " one call for three of them)"
        ),
        measures=[_finite(per)],
    )


def _forgetting(found: Found) -> Verdict:
    general = found.evidence.general
    claim = "forgetting can happen, and be seen"
    if not general:
        words = "no general questions were asked; --general names a pool of them"
        return Verdict(name="P6", claim=claim, verdict="can't be told", because=words)
    score = share("general, greedy", general, lambda one: one.greedy.success)
    chance = share("general, guessing", general, lambda one: one.chance)
    above = score.model_copy(
        update={
            "name": "general above guessing",
            **{n: getattr(score, n) - chance.value for n in ("value", "low", "high")},
        }
    )
    reasoned = style(general)
    enough = above.at_least(ABOVE_CHANCE)
    words = (
        f"the general score in the model's own style is {score}, guessing gets"
        f" {100 * chance.value:.1f} %: {above.points} that could be lost (needed:"
        f" {100 * ABOVE_CHANCE:.0f})"
    )
    rises = reasoned.n > 0 and reasoned.low > 0
    if rises:
        words += (
            f". With a thought it is right {reasoned.points} more often than without, so training that"
            " brings thoughts raises the score and hides what is lost"
        )
    return Verdict(
        name="P6",
        claim=claim,
        verdict="does not hold" if rises else enough,
        because=words,
        measures=[score, chance, above, reasoned],
    )


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 else math.inf


def _finite(measure: Measure) -> Measure:
    """JSON has no infinity; where nothing is weak, or practice, a ratio is as large as you like."""
    limited = {n: min(getattr(measure, n), 1e9) for n in ("value", "low", "high")}
    return measure.model_copy(update=limited)


# What follows: which parts of DPPO would pay.


def _phases(found: Found, premises: Sequence[Verdict]) -> list[Phase]:
    by_name = {one.name: one.verdict for one in premises}
    return [
        _rl(found, by_name),
        _sft(found),
        _mining(found, by_name),
        _loops(by_name),
        _replay(by_name),
    ]


_READ: dict[Answer, Pays] = {
    "holds": "would pay",
    "does not hold": "would not pay",
    "can't be told": "can't be told",
}


def _rl(found: Found, premises: dict[str, Answer]) -> Phase:
    skill, prompts = premises["P2"], premises["P5a"]
    name, style = "RL", found.style
    if skill == "holds" and prompts != "does not hold":
        return Phase(
            name=name, verdict="would pay", because="there is unsteady skill to select (P2)"
        )
    if skill == "holds":
        why = (
            "there is unsteady skill (P2), but too few prompts (P5a): it would learn them by heart;"
            " raise data.samples_per_loop, or lower rl.max_steps"
        )
        return Phase(name=name, verdict="would not pay", because=why)
    if premises["P1"] == "does not hold" and style.n and style.low > 0:
        why = (
            f"once: it brings out thoughts, with which the model is right {style.points} more often"
            " (P1). What is beyond that "
        )
        why += "is doubt, and no skill (P2)" if skill == "does not hold" else "can't be told (P2)"
        return Phase(name=name, verdict="would pay", because=why)
    why = {
        "does not hold": "nothing would be selected but luck (P2)",
        "can't be told": f"{len(found.main)} questions do not tell skill from doubt (P2); ask more",
    }[skill]
    return Phase(name=name, verdict=_READ[skill], because=why)


def _sft(found: Found) -> Phase:
    name, never, teacher = "SFT from the teacher", found.never, found.teacher
    if teacher is None:
        if never.high < PAYS:
            why = (
                f"the model fails at {never} of the questions every time: there is little to teach"
            )
            return Phase(name=name, verdict="would not pay", because=why)
        return Phase(name=name, verdict="can't be told", because="no teacher was asked (P3)")
    product = Measure(
        name="taught",
        value=never.value * teacher.value,
        low=never.low * teacher.low,
        high=never.high * teacher.high,
        n=never.n,
    )
    verdict = _READ[product.at_least(PAYS)]
    why = (
        f"{never} of the questions are never solved, and the teacher solves {teacher} of those: its"
        f" rows hold {product} of the pool that practice can't find (worth a phase:"
        f" {100 * PAYS:.0f} %)"
    )
    if teacher.high < TEACHER:
        why += "; a better teacher would bring more"
    return Phase(name=name, verdict=verdict, because=why)


def _mining(found: Found, premises: dict[str, Answer]) -> Phase:
    scarce, name = premises["P5b"], "mining weak questions, instead of asking the teacher at random"
    if scarce == "does not hold":
        why = (
            "the recipe lets the teacher answer far more than the weak questions (P5b), so that it"
            " hardly matters which; it pays where calls are few"
        )
        return Phase(name=name, verdict="would not pay", because=why)
    rare = found.weak.at_most(MOSTLY)
    verdict = _READ[rare] if scarce == "holds" else "can't be told"
    why = f"{found.weak} of the questions are weak; picking them saves calls where most are not"
    return Phase(name=name, verdict=verdict, because=why)


def _loops(premises: dict[str, Answer]) -> Phase:
    why: dict[Answer, str] = {
        "holds": "loop 1 can't see all weaknesses (P4)",
        "does not hold": "loop 1 sees all weaknesses (P4): one loop of the same compute is as good",
        "can't be told": "too few weak kinds were seen to tell (P4)",
    }
    verdict = premises["P4"]
    return Phase(name="more than one loop", verdict=_READ[verdict], because=why[verdict])


def _replay(premises: dict[str, Answer]) -> Phase:
    """Without a suite that shows forgetting nobody knows: replay is then kept, and not judged."""
    why: dict[Answer, str] = {
        "holds": "there is something to forget, and the general suite would show it (P6)",
        "does not hold": "the general suite would not show what is forgotten (P6); take one that the"
        " model is good at, in its own style",
        "can't be told": "whether forgetting would show is not known (P6)",
    }
    verdict = premises["P6"]
    pays: Pays = "would pay" if verdict == "holds" else "can't be told"
    return Phase(name="general replay", verdict=pays, because=why[verdict])


def kinds_of(kinds: Iterable[Kind]) -> dict[Kind, int]:
    """Rows of each kind."""
    return dict(Counter(kinds))
