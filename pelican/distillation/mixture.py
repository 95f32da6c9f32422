"""D_SFT = D_weak + D_assoc + D_gen: what the teacher is asked, and what of it is learned."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa
from pydantic import Field

from pelican.data.entry import Entry
from pelican.data.select import shuffled
from pelican.distillation.retrieval import Related
from pelican.frozen import Frozen
from pelican.recipe import DistillConfig
from pelican.records import Dimension, Family, Split

Origin = Literal["weak", "assoc", "general"]
PoolName = Literal["pool", "replay"]
ORIGINS: tuple[Origin, ...] = ("weak", "assoc", "general")
COPIES = 2  # times that one row may stand in the mixture
SPARE = 1.4  # asked for every row wanted: the reward rejects some, and more are repeated


@dataclass(frozen=True, slots=True)
class Request:
    """One sample that the teacher is asked about, and why. `weak_id`: whose neighbour it is."""

    entry: Entry
    origin: Origin
    pool: PoolName
    weak_id: str = ""
    similarity: float = 0.0


class TeacherRow(Frozen):
    """What the teacher made of one sample. A row that was not accepted is kept for the ledger."""

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
    weak_id: str
    similarity: float


class MixtureRow(Frozen):
    """One row to learn, with where it came from."""

    row: int = Field(ge=0)
    sample_id: str
    origin: Origin
    pool: PoolName = Field(description="where the sample's picture is")
    completion: str
    score: float = Field(description="task part of our reward")
    tries: int = Field(gt=0, description="answers that the teacher gave")
    accepted_tries: int = Field(gt=0)
    repeat: int = Field(ge=0, lt=COPIES, description="0, and 1 where the row stands again")
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


def shares(
    weak: int, assoc: int, general: int, config: DistillConfig, copies: int = COPIES
) -> dict[Origin, int]:
    """Rows of each origin, given how many distinct ones there are.

    `ratio` is an upper bound: each origin gets at most its share and at most `copies` times its
    distinct rows; what one lacks no other fills. The shares are those of `max_rows`; without it,
    the larger of weak and assoc (relative to the ratio) is taken once and sets the shares.
    Without weak and assoc rows, or with `only_replay`, the mixture is general rows alone.
    """
    there: dict[Origin, int] = {"weak": weak, "assoc": assoc, "general": general}
    if config.only_replay or not weak + assoc:
        limit = config.max_rows if config.max_rows is not None else general
        return {"weak": 0, "assoc": 0, "general": min(copies * general, limit)}
    parts: dict[Origin, float] = dict(zip(ORIGINS, config.ratio, strict=True))
    if config.max_rows is not None:
        unit = config.max_rows / (sum(config.ratio) or 1.0)
    else:
        unit = max((there[o] / parts[o] for o in ("weak", "assoc") if parts[o] > 0), default=0.0)
    return {o: min(copies * there[o], math.floor(parts[o] * unit + 1e-9)) for o in ORIGINS}


def plan(
    weak: Sequence[Entry],
    related: Sequence[Related],
    replay: Sequence[Entry],
    config: DistillConfig,
    salt: str,
) -> list[Request]:
    """What the teacher is asked: every weak sample, the nearest related ones, replay.

    With `max_rows` at most SPARE times an origin's share is asked of assoc and general; the weak
    ones are all asked, because the ledger says what the teacher could not solve.
    """
    pool = [entry for entry in shuffled(replay, salt) if entry.split is Split.TRAIN]
    if config.only_replay:
        weak, related = (), ()
    wanted = shares(len(weak), len(related), len(pool), config, copies=1)
    spare = SPARE if config.max_rows is not None else 1.0
    requests = [Request(entry, "weak", "pool", entry.id, 1.0) for entry in weak]
    requests += [
        Request(r.entry, "assoc", "pool", r.weak_id, r.similarity)
        for r in related[: math.ceil(spare * wanted["assoc"])]
    ]
    requests += [
        Request(entry, "general", "replay")
        for entry in pool[: math.ceil(spare * wanted["general"])]
    ]
    return requests


def mix(
    answered: Sequence[TeacherRow], config: DistillConfig, teacher: str, salt: str
) -> list[MixtureRow]:
    """The mixture of the accepted rows, in an order that depends on `salt`.

    An origin with more rows than its share gives its first (for assoc: its nearest); one with
    fewer repeats its rows, none more than COPIES times.
    """
    accepted: Mapping[Origin, list[TeacherRow]] = {
        origin: [row for row in answered if row.accepted and row.origin == origin]
        for origin in ORIGINS
    }
    there = {origin: len(rows) for origin, rows in accepted.items()}
    counts = shares(there["weak"], there["assoc"], there["general"], config)
    chosen = [
        (accepted[origin][i % len(accepted[origin])], i // len(accepted[origin]))
        for origin in ORIGINS
        for i in range(counts[origin])
    ]
    chosen.sort(key=lambda pair: _order(salt, *pair))
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


def _order(salt: str, row: TeacherRow, repeat: int) -> bytes:
    text = f"{salt}:{row.pool}:{row.sample_id}:{row.origin}:{repeat}"
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
