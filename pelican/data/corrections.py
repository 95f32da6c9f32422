"""A person's corrections of a training pool, applied whenever the pool is read.

One JSON object a line: {"id": …, "action": "drop" | "relabel" | "redimension", …}, with `answer`
(as in a shard) for relabel, `dimension` for redimension, and a `note` if one likes. The page of the
weakness ledger writes such files; `data.corrections` names one. The pool itself stays as it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from pelican.base.model import Frozen
from pelican.errors import UserInputError
from pelican.records import Answer, Dimension

if TYPE_CHECKING:
    import polars as pl


class _Line(Frozen):
    id: str = Field(min_length=1)
    note: str = ""


class Drop(_Line):
    """The sample is left out."""

    action: Literal["drop"]


class Relabel(_Line):
    """The right answer is another one; of any kind that the sample's family has a reward for."""

    action: Literal["relabel"]
    answer: Answer


class Redimension(_Line):
    """The sample asks for another capability dimension."""

    action: Literal["redimension"]
    dimension: Dimension


Correction = Annotated[Drop | Relabel | Redimension, Field(discriminator="action")]
_CORRECTION: TypeAdapter[Drop | Relabel | Redimension] = TypeAdapter(Correction)


@dataclass(frozen=True)
class Corrections:
    """Which samples are dropped, and what of which others is replaced (column -> value)."""

    dropped: frozenset[str] = frozenset()
    replaced: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.dropped or self.replaced)

    @property
    def ids(self) -> frozenset[str]:
        return self.dropped | frozenset(self.replaced)

    def row(self, values: dict[str, Any]) -> dict[str, Any]:
        """A row of a shard with what is replaced in it."""
        return {**values, **self.replaced.get(str(values["id"]), {})}

    def frame(self, pool: pl.DataFrame) -> pl.DataFrame:
        """Some columns of a pool, `id` among them, without the dropped rows and corrected."""
        if not self:
            return pool
        import polars as pl  # every stage imports this module, few a table

        pool = pool.filter(~pl.col("id").is_in(list(self.dropped)))
        for column in ("answer", "dimension"):
            new = {i: fix[column] for i, fix in self.replaced.items() if column in fix}
            if new and column in pool.columns:
                right = pl.col("id").replace_strict(
                    new, default=pl.col(column), return_dtype=pl.String
                )
                pool = pool.with_columns(right.alias(column))
        return pool

    def counts(self, known: Collection[str]) -> dict[str, int]:
        """How many of each kind met a sample of a pool with the ids `known`, and how many none."""
        there = self.ids & set(known)
        if not self:
            return {}
        columns = Counter(c for i in there for c in self.replaced.get(i, {}))
        return {
            "corrected_dropped": len(self.dropped & there),
            "corrected_answer": columns["answer"],
            "corrected_dimension": columns["dimension"],
            "corrections_unmatched": len(self.ids) - len(there),
        }


NONE = Corrections()


def read_corrections(path: Path) -> Corrections:
    """Raises UserInputError that names the line which can't be read or contradicts another."""
    dropped: set[str] = set()
    replaced: dict[str, dict[str, str]] = {}
    try:
        if path.exists() and not path.is_file():  # every stage reads them: a named pipe ends once
            raise UserInputError(f"corrections {path} are no regular file; write them to one")
        # By line ends alone: a text may hold what else Python takes for one, such as U+2028.
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserInputError(f"corrections {path} can't be read: {error}") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"corrections {path}, line {number}"
        fix = _parsed(line, where)
        if isinstance(fix, Drop):
            if fix.id in dropped:
                raise UserInputError(f"{where}: {fix.id!r} is dropped twice; keep one line")
            dropped.add(fix.id)
            continue
        column, value = (
            ("answer", fix.answer.model_dump_json())
            if isinstance(fix, Relabel)
            else ("dimension", fix.dimension.value)
        )
        known = replaced.setdefault(fix.id, {})
        if column in known:
            raise UserInputError(f"{where}: the {column} of {fix.id!r} is given twice; keep one")
        known[column] = value
    both = sorted(dropped & set(replaced))
    if both:
        raise UserInputError(
            f"corrections {path}: {both[0]!r} is dropped and corrected; keep one of the two"
        )
    return Corrections(frozenset(dropped), replaced)


def _parsed(line: str, where: str) -> Drop | Relabel | Redimension:
    try:
        return _CORRECTION.validate_json(line)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        message = str(first["msg"]).removeprefix("Value error, ")
        if first["type"].startswith("union_tag"):
            place, message = "action", "it is drop, relabel or redimension"
        raise UserInputError(f"{where}: {place + ': ' if place else ''}{message}") from None
