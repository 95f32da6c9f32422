"""Answers of a pool, a column at a time: of which kind they are, where plainly nothing is wrong.

`pelican.data.entry.entry_of` is the rule, one row at a time.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import ValidationError

from pelican.data.entry import KINDS, answer_types, finite
from pelican.data.quarantine import RowError
from pelican.data.run_lengths import whole_masks
from pelican.data.tables import answer_from_json
from pelican.records import IntervalAnswer, Mask, PointsAnswer

Codes = npt.NDArray[np.int8]
Floats = npt.NDArray[np.float64]

KIND = {kind: number for number, kind in enumerate(KINDS)}
# The others have no number that could be NaN or infinite.
_FLOATS = tuple(t for t in answer_types() if '"number"' in json.dumps(t.model_json_schema()))
_REMEMBERED, _SHORT = 1 << 16, 64  # texts of answers, of at most so many characters


@dataclass(frozen=True)
class Answers:
    """`kind`: its place in KINDS, -1 where something may be wrong. `start`, `end` of intervals."""

    kind: Codes
    start: Floats
    end: Floats


def answers_of(column: pa.Array) -> Answers:
    """What can be said of each text of a column of answers; null is in doubt."""
    coded = column.dictionary_encode()
    facts = [
        _remembered(text) if len(text) <= _SHORT else _facts(text)
        for text in coded.dictionary.to_numpy(zero_copy_only=False)
    ]
    table = np.array([*(fact[:3] for fact in facts), _DOUBT[:3]], dtype=float)
    masked = [(i, fact[3]) for i, fact in enumerate(facts) if fact[3] is not None]
    whole = whole_masks([mask for _, mask in masked])
    table[[i for (i, _), good in zip(masked, whole, strict=True) if not good], 0] = -1
    # The last line of the table is that of null, at -1.
    found = table[pc.fill_null(coded.indices, -1).to_numpy(zero_copy_only=False)]
    return Answers(found[:, 0].astype(np.int8), found[:, 1], found[:, 2])


_Fact = tuple[float, float, float, Mask | None]  # kind, start and end, and the mask of points
_DOUBT: _Fact = (-1.0, 0.0, 0.0, None)


def _facts(text: str) -> _Fact:
    try:
        answer = answer_from_json(text)
        if isinstance(answer, _FLOATS):
            finite(answer, "answer")
    except (ValidationError, RowError):
        return _DOUBT
    kind = KIND[answer.kind]
    if isinstance(answer, IntervalAnswer):
        return kind, answer.start, answer.end, None
    return kind, 0.0, 0.0, answer.mask if isinstance(answer, PointsAnswer) else None


_remembered = lru_cache(_REMEMBERED)(_facts)
