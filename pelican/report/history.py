"""The history of every practised sample over loops and phases, and what became of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

import polars as pl

from pelican.data.corrections import NONE, Corrections, read_corrections
from pelican.data.frames import whole
from pelican.data.tables import sample_from_row, shard_paths
from pelican.errors import DamagedError, UserInputError
from pelican.records import Sample
from pelican.report.run import Run, StageRun
from pelican.rewards.base import Unscorable
from pelican.rewards.parse import extract_answer, normalise
from pelican.stages.stage import CORRECTIONS, resolve_input

# What a page shows of a sample: its rollouts with their scores, question, answer and pictures.

SHOWN_ROLLOUTS = 2  # of each moment


def add_attempts(run: Run, cases: Sequence[Case]) -> None:
    """The teacher's answers, and the first rollouts of each moment with their scores."""
    known = {case.id: case for case in cases}
    for case in cases:
        case.attempts = list(case.verdicts.values())
    for stage in run.finished("rollout"):
        words, order = moment_of(stage)
        for row in _read_scores(run, stage, known).iter_rows(named=True):
            known[row["sample_id"]].attempts.append(
                Attempt(words, row["completion"], row["success"], row["reason"], order)
            )
    for case in cases:  # the same words twice at one moment say nothing new
        case.attempts = sorted(dict.fromkeys(case.attempts), key=lambda attempt: attempt.order)


def moment_of(stage: StageRun) -> tuple[str, tuple[int, int]]:
    """When a stage's rollouts were made, in words, and where that stands in the training."""
    moment = Moment(stage.loop, stage.phase, 0, 0)
    return moment.words, moment.order


def _read_scores(run: Run, stage: StageRun, ids: Collection[str]) -> pl.DataFrame:
    """The first rollouts of these samples with success and reason; empty if a table is missing."""
    rollouts = rows_of(run, stage.prefix, "rollouts", ids, most=SHOWN_ROLLOUTS)
    scores = rows_of(run, scores_of(stage), "scores", ids, most=SHOWN_ROLLOUTS)
    if rollouts is None or scores is None:
        return pl.DataFrame()
    both = rollouts.join(
        scores.select("sample_id", "index", "success", "reason"), on=["sample_id", "index"]
    )
    return both.sort("sample_id", "index")


def scores_of(rollout: StageRun) -> str:
    """The prefix of the scores of a rollout stage."""
    return rollout.prefix.replace("/rollout-", "/reward-")


def rows_of(
    run: Run, prefix: str, name: str, ids: Collection[str], most: int | None = None
) -> pl.DataFrame | None:
    """The rows of these samples in a stage's shards, of index below `most`; None without shards."""
    paths = run.files(prefix, f"{name}-*.parquet")
    if not paths:
        return None
    wanted = pl.col("sample_id").is_in(list(ids))
    if most is not None:
        wanted &= pl.col("index") < most
    try:
        with whole(*paths):
            return pl.concat([pl.scan_parquet(path).filter(wanted) for path in paths]).collect()
    except DamagedError as error:
        run.note(error)
        return None


def pool_places(run: Run) -> list[str]:
    """Where the training pool lies, by the manifests, else by the recipe."""
    places = {
        stage.manifest.inputs["pool"]
        for stage in run.stages
        if stage.manifest and "pool" in stage.manifest.inputs
    }
    return sorted(places or {str(run.recipe.get("data", {}).get("train", ""))})


def corrections_of(run: Run) -> Corrections:
    """What a person corrected for this run, if the file can be read from here."""
    for stage in run.stages:
        where = stage.manifest.inputs.get(CORRECTIONS) if stage.manifest else None
        if where:
            try:
                return read_corrections(resolve_input(run.store, where))
            except (UserInputError, DamagedError):
                return NONE  # the page is made where the file is not
    return NONE


def samples_of(
    run: Run, places: Sequence[str], ids: Collection[str], corrections: Corrections = NONE
) -> Iterator[Sample]:
    """The samples of these ids in the pools that can be read from here, one after another."""
    missing = set(ids)
    for place in places:
        try:
            paths = shard_paths(resolve_input(run.store, place)) if place and missing else []
        except (UserInputError, DamagedError):
            continue  # the page is made where the data is not: it shows the rest
        for path in paths:
            wanted = pl.col("id").is_in(list(missing))
            try:
                with whole(path):
                    rows = pl.scan_parquet(path).filter(wanted).collect()
            except DamagedError as error:
                run.note(error)
                continue
            for part in rows.iter_slices(64):
                for row in part.iter_rows(named=True):
                    if row["id"] not in missing:
                        continue
                    try:
                        sample = sample_from_row(corrections.row(row))
                    except (ValueError, TypeError):
                        continue  # quarantined rows have their own table
                    missing.discard(sample.id)
                    yield sample


# The history of every practised sample over loops and phases, and what became of it.
#
# A sample is weak at a moment if none of its rollouts succeeded (SR = 0), and solved if at least half
# did. What became of it is read from its ledger rows in the order of training, and the teacher's
# verdicts: see `outcome_of`.

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
# What each means, for a reader of the pages; docs/report.md says more.
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

    Who solved it follows from the moment after its last SR = 0: RL if that stood before and after
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


# Which samples are worth a person's look: those whose label or picture may be wrong come first.

_SURE = 0.75  # share of the wrong answers that say the same
_LEAST = 4  # wrong answers before that means anything


@dataclass(frozen=True, slots=True)
class Habit:
    """A sample's commonest wrong answer, its share of the wrong answers, and their number."""

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
    """The interest of a sample to a person, 0 … 5, and why in words.

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
