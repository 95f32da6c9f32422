"""Distillation: the teacher answers weak samples, the reward verifies it, replay is mixed in."""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa
from pydantic import Field

from pelican.base.endpoint import ChatClient
from pelican.base.model import Frozen
from pelican.config.recipe import THINK_THEN_ANSWER, DistillConfig, RewardConfig, Sampling
from pelican.data.entries import Entry
from pelican.data.select import shuffled
from pelican.dppo.retrieval import Related
from pelican.engines.base import Engine
from pelican.engines.openai import ask_all
from pelican.records import Dimension, Family, Sample, Score, Split
from pelican.rewards import Judge, score

# The SFT mixture D_SFT = D_weak + D_assoc + D_gen: the requests to the teacher, and the rows to learn.

Origin = Literal["weak", "assoc", "general", "uniform", "earlier"]
PoolName = Literal["pool", "replay"]
COPIES = 2  # times that one row may stand in the mixture
SPARE = 1.4  # asked for every row wanted: the reward rejects some, and more are repeated


@dataclass(frozen=True, slots=True)
class Request:
    """One sample that the teacher is asked about.

    `origin` says why; `weak_id` is the weak sample that it is or is related to, empty for others.
    """

    entry: Entry
    origin: Origin
    pool: PoolName
    weak_id: str = ""
    similarity: float = 0.0


class TeacherRow(Frozen):
    """The teacher's best answer to one sample; also one that was not accepted, for the ledger."""

    sample_id: str
    origin: Origin
    pool: PoolName
    family: Family
    dimension: Dimension
    source: str
    answer_text: str
    accepted: bool
    reason: str
    score: float
    tries: int = Field(gt=0)
    accepted_tries: int = Field(ge=0)
    tokens: int = Field(ge=0, description="of all tries")
    prompt_tokens: int = Field(0, ge=0, description="of the question; 0: not known")
    weak_id: str
    similarity: float


class MixtureRow(Frozen):
    """One row to learn, with where it came from."""

    row: int = Field(ge=0)
    sample_id: str
    origin: Origin
    pool: PoolName = Field(
        description="pool that the sample comes from: `pool` (training) or `replay`"
    )
    completion: str
    score: float = Field(description="task part of our reward")
    tries: int = Field(gt=0, description="answers that the teacher gave")
    accepted_tries: int = Field(gt=0)
    repeat: int = Field(
        ge=0,
        lt=COPIES,
        description="which copy of the row this is: 0 for the first, 1 for the second",
    )
    family: Family
    dimension: Dimension
    source: str = Field(description="data set of the sample")
    teacher: str
    weak_id: str = Field(description="the weak sample that this one is related to")
    similarity: float


_TEXT = pa.string()
TEACHER = pa.schema(
    [
        *[(n, _TEXT) for n in ("sample_id", "origin", "pool", "family", "dimension", "source")],
        ("answer_text", _TEXT),
        ("accepted", pa.bool_()),
        ("reason", _TEXT),
        ("score", pa.float64()),
        ("tries", pa.int32()),
        ("accepted_tries", pa.int32()),
        ("tokens", pa.int64()),
        ("weak_id", _TEXT),
        ("similarity", pa.float64()),
        ("prompt_tokens", pa.int32()),
    ]
)
MIXTURE = pa.schema(
    [
        ("row", pa.int32()),
        *[(n, _TEXT) for n in ("sample_id", "origin", "pool", "completion")],
        ("score", pa.float64()),
        ("tries", pa.int32()),
        ("accepted_tries", pa.int32()),
        ("repeat", pa.int32()),
        *[(n, _TEXT) for n in ("family", "dimension", "source", "teacher", "weak_id")],
        ("similarity", pa.float64()),
    ]
)


def parts_of(config: DistillConfig) -> dict[Origin, float]:
    """The origins of what the teacher is asked, each with its part of the ratio: what it is asked for
    is the first, general replay the last.

    Samples drawn at random have the parts of the weak ones and of those related to them.
    """
    weak, assoc, general = config.ratio
    if config.prompts == "uniform":
        return {"uniform": weak + assoc, "general": general}
    return {"weak": weak, "assoc": assoc, "general": general}


def shares(
    there: Mapping[Origin, int], config: DistillConfig, copies: int = COPIES
) -> dict[Origin, int]:
    """Rows of each origin, given how many distinct ones are `there`.

    `ratio` is an upper bound: each origin gets at most its share and at most `copies` times its
    distinct rows; what one lacks no other fills. The shares are those of `max_rows`; without it,
    the largest origin of the training pool (relative to the ratio) is taken once and sets the shares.
    Without rows of that pool, or with `only_replay`, the mixture is general rows alone.
    """
    parts = parts_of(config)
    *trained, _ = parts
    if config.only_replay or not sum(there[o] for o in trained):
        general = there["general"]
        limit = config.max_rows if config.max_rows is not None else general
        return {**dict.fromkeys(trained, 0), "general": min(copies * general, limit)}
    if config.max_rows is not None:
        unit = config.max_rows / (sum(config.ratio) or 1.0)
    else:
        unit = max((there[o] / parts[o] for o in trained if parts[o] > 0), default=0.0)
    return {o: min(copies * there[o], math.floor(parts[o] * unit + 1e-9)) for o in parts}


def plan(
    weak: Sequence[Entry],
    related: Sequence[Related],
    replay: Sequence[Entry],
    config: DistillConfig,
    salt: str,
) -> list[Request]:
    """What the teacher is asked, first things first: every weak sample, the nearest related ones, replay.

    With `max_rows` at most SPARE times an origin's share is asked of assoc and general; the weak
    ones are all asked, because the ledger says what the teacher could not solve.
    """
    pool = _trained_on(replay, salt)
    if config.only_replay:
        weak, related = (), ()
    there: dict[Origin, int] = {"weak": len(weak), "assoc": len(related), "general": len(pool)}
    wanted = _wanted(there, config)
    return [
        *(Request(entry, "weak", "pool", entry.id, 1.0) for entry in weak),
        *(
            Request(r.entry, "assoc", "pool", r.weak_id, r.similarity)
            for r in related[: wanted["assoc"]]
        ),
        *(Request(entry, "general", "replay") for entry in pool[: wanted["general"]]),
    ]


def plan_uniform(
    pool: Sequence[Entry], replay: Sequence[Entry], config: DistillConfig, salt: str
) -> list[Request]:
    """What the teacher is asked if nobody looked for what is weak: random samples of the pool, replay.

    They are in a random order, so that any first part of them has of both its share.
    """
    samples, general = _trained_on(pool, salt), _trained_on(replay, salt)
    wanted = _wanted({"uniform": len(samples), "general": len(general)}, config)
    requests = [Request(entry, "uniform", "pool") for entry in samples[: wanted["uniform"]]]
    requests += [Request(entry, "general", "replay") for entry in general[: wanted["general"]]]
    return sorted(requests, key=lambda r: _order(salt, r.pool, r.entry.id, r.origin, 0))


def _trained_on(entries: Sequence[Entry], salt: str) -> list[Entry]:
    return [entry for entry in shuffled(entries, salt) if entry.split is Split.TRAIN]


def _wanted(there: Mapping[Origin, int], config: DistillConfig) -> dict[Origin, int]:
    """How many of each origin to ask about; with `max_rows` some to spare."""
    spare = SPARE if config.max_rows is not None else 1.0
    found = shares(there, config, copies=1)
    return {origin: math.ceil(spare * count) for origin, count in found.items()}


def by_need(weak: Sequence[Entry], rewards: Mapping[str, float], salt: str) -> list[Entry]:
    """Weak samples in the order in which they need the teacher, for a budget that ends before they do.

    Any first part has of every family its share of the weak ones, and of a family those that are
    furthest from a success: the least mean reward.

    Args:
        weak: the samples.
        rewards: mean reward of each one's rollouts, by id.
        salt: decides among equals.
    """
    families: defaultdict[Family, list[Entry]] = defaultdict(list)
    for entry in sorted(shuffled(weak, salt), key=lambda entry: rewards[entry.id]):
        families[entry.family].append(entry)
    placed = [
        ((place + 0.5) / len(rows), family, entry)
        for family, rows in families.items()
        for place, entry in enumerate(rows)
    ]
    return [entry for _, _, entry in sorted(placed, key=lambda each: each[:2])]


def kept_rows(
    earlier: Sequence[Sequence[TeacherRow]], answered: Sequence[TeacherRow], config: DistillConfig
) -> list[TeacherRow]:
    """The accepted answers of earlier loops to weak samples (or random ones), the newest first.

    Of a sample the newest answer stands; none where this loop has one.

    Args:
        earlier: the teacher's rows of every earlier loop, in their order.
        answered: those of this loop.
        config: the recipe's section `distill`.
    """
    asked_for = next(iter(parts_of(config)))
    known = {row.sample_id for row in answered if row.accepted and row.pool == "pool"}
    kept: dict[str, TeacherRow] = {}
    for rows in reversed(earlier):
        for row in rows:
            if row.accepted and row.origin == asked_for and row.sample_id not in known:
                kept.setdefault(row.sample_id, row.model_copy(update={"origin": "earlier"}))
    return list(kept.values())


def mix(
    answered: Sequence[TeacherRow],
    config: DistillConfig,
    teacher: str,
    salt: str,
    kept: Sequence[TeacherRow] = (),
) -> list[MixtureRow]:
    """The mixture of the accepted rows, in an order that depends on `salt`.

    An origin with more rows than its share gives its first (for assoc: its nearest); one with
    fewer repeats its rows, none more than COPIES times. Rows `kept` of earlier loops follow the weak
    ones of this loop, and share their part.
    """
    accepted: dict[Origin, list[TeacherRow]] = {
        origin: [row for row in answered if row.accepted and row.origin == origin]
        for origin in parts_of(config)
    }
    accepted[next(iter(accepted))] += kept
    counts = shares({origin: len(rows) for origin, rows in accepted.items()}, config)
    chosen = [
        (accepted[origin][i % len(accepted[origin])], i // len(accepted[origin]))
        for origin, count in counts.items()
        for i in range(count)
    ]
    chosen.sort(
        key=lambda pair: _order(salt, pair[0].pool, pair[0].sample_id, pair[0].origin, pair[1])
    )
    return [
        MixtureRow(
            row=number,
            sample_id=row.sample_id,
            origin=row.origin,
            pool=row.pool,
            completion=row.answer_text,
            score=row.score,
            tries=row.tries,
            accepted_tries=row.accepted_tries,
            repeat=repeat,
            family=row.family,
            dimension=row.dimension,
            source=row.source,
            teacher=teacher,
            weak_id=row.weak_id,
            similarity=row.similarity,
        )
        for number, (row, repeat) in enumerate(chosen)
    ]


def _order(salt: str, pool: str, sample: str, origin: str, repeat: int) -> bytes:
    text = f"{salt}:{pool}:{sample}:{origin}:{repeat}"
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


# The teacher: an engine in this process, or an endpoint.

KEY_VARIABLE = "PELICAN_TEACHER_API_KEY"


@dataclass(frozen=True, slots=True)
class Reply:
    """One try of the teacher. `error` says why there is no text."""

    text: str
    tokens: int
    error: str = ""
    prompt_tokens: int = 0


class Teacher(ABC):
    """A stronger model. It can be wrong: what it says is verified."""

    @abstractmethod
    def answer(
        self, samples: Sequence[Sample], sampling: Sampling, tries: int, seed: int
    ) -> Iterator[list[Reply]]:
        """`tries` replies per sample, in the order of `samples`."""

    def close(self) -> None:
        """End what the teacher started; nothing, unless it has an engine or connections."""
        return None


class EngineTeacher(Teacher):
    """The teacher's checkpoint in an engine of this process."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def answer(
        self, samples: Sequence[Sample], sampling: Sampling, tries: int, seed: int
    ) -> Iterator[list[Reply]]:
        for rollouts in self._engine.generate(samples, sampling, tries, seed):
            yield [
                Reply(rollout.completion, rollout.tokens, prompt_tokens=rollout.prompt_tokens)
                for rollout in rollouts
            ]

    def close(self) -> None:
        self._engine.close()


class EndpointTeacher(Teacher):
    """An OpenAI-compatible endpoint; `url` ends in /v1. Images travel as data URLs.

    The key comes from PELICAN_TEACHER_API_KEY alone. A busy or failing server is asked again; a
    request that it refuses (too long, say) is that try's error and does not end the stage.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        system_prompt: str | None = None,
        concurrency: int = 8,
        attempts: int = 6,
        backoff_s: float = 1.0,
        timeout_s: float = 600.0,
    ) -> None:
        """Connects to nothing yet.

        Args:
            url: Address of the endpoint, to its /v1.
            model: The name under which it serves the teacher.
            system_prompt: What it is told first; None: to think, then answer, in our tags.
            concurrency: Requests at a time, at most.
            attempts: Requests for one reply.
            backoff_s: The longest wait before the second attempt.
            timeout_s: For one reply.
        """
        self._system = system_prompt or THINK_THEN_ANSWER
        self._client = ChatClient(
            url,
            model,
            who="teacher",
            setting="distill.endpoint",
            key_variable=KEY_VARIABLE,
            concurrency=concurrency,
            attempts=attempts,
            backoff_s=backoff_s,
            timeout_s=timeout_s,
        )

    def answer(
        self, samples: Sequence[Sample], sampling: Sampling, tries: int, seed: int
    ) -> Iterator[list[Reply]]:
        for replies in ask_all(self._client, samples, self._system, sampling, tries, seed):
            yield [
                Reply(reply.text, reply.tokens, reply.error, reply.prompt_tokens)
                for reply in replies
            ]

    def close(self) -> None:
        self._client.close()


# Verification: the reward of RL scores the teacher's answers, too; only accepted ones are learned.


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
    prompt_tokens: int


def verify(
    sample: Sample,
    replies: Sequence[Reply],
    config: RewardConfig,
    judge: Judge | None = None,
    asked: DistillConfig | None = None,
    salt: str = "",
) -> Verified:
    """The accepted try with the highest task score, of equals the shortest, of equals the first.

    If none is accepted, the best failed try with its reason.

    Args:
        sample: What was asked.
        replies: The tries.
        config: How they are scored.
        judge: Of free text.
        asked: The recipe's section `distill`, which may ask for more than a success in a whole format:
            for a score, for several right tries where guesses are often right, and for any of the best
            tries instead of the shortest.
        salt: Decides which, with the sample's id.
    """
    asked = asked or DistillConfig()
    scored = [
        (reply, score(sample, reply.text, config, index=i, judge=judge))
        for i, reply in enumerate(replies)
    ]
    accepted = [
        (reply, given) for reply, given in scored if is_accepted(reply, given, asked.min_score)
    ]
    reply, best = min(
        accepted or scored,
        key=lambda pair: (bool(pair[0].error), -pair[1].task, len(pair[0].text)),
    )
    if accepted and asked.choose == "random":
        equals = [given for given in accepted if given[1].task == best.task]
        reply, best = min(equals, key=lambda pair: _order(salt, sample.id, "", "", pair[1].index))
    reason = "" if accepted else reply.error or best.reason or _unaccepted(best, asked.min_score)
    guessed = asked.guessable is not None and sample.chance > asked.guessable
    if accepted and guessed and len(accepted) < max(2, len(replies) // 2 + 1):
        reason = f"right in {len(accepted)} of {len(replies)} tries, which may be a guess"
    return Verified(
        text=reply.text,
        accepted=not reason,
        reason=reason,
        score=best.task,
        tries=len(replies),
        accepted_tries=len(accepted),
        tokens=sum(reply.tokens for reply in replies),
        prompt_tokens=max(reply.prompt_tokens for reply in replies),
    )


def is_accepted(reply: Reply, given: Score, least: float | None = None) -> bool:
    """Whether a try is a success in a whole format, with a task score of `least`."""
    enough = least is None or given.task >= least
    return not reply.error and given.success and given.format == 1.0 and enough


def _unaccepted(given: Score, least: float | None) -> str:
    """Why a try whose task part is above 0 is not accepted."""
    if given.success and given.format == 1.0:
        return f"task score {given.task:.2f} is less than {least}"
    return "format" if given.success else f"task score {given.task:.2f} is no success"
