"""What a policy could do before and can't do now, question by question."""

from __future__ import annotations

import polars as pl
from pydantic import Field

from pelican.frozen import Frozen


class Flips(Frozen):
    """Questions whose success changed between two policies, out of `n` that both answered."""

    n: int
    kept: int
    lost: int
    gained: int
    lost_by_family: dict[str, int] = Field(default_factory=dict)
    gained_by_family: dict[str, int] = Field(default_factory=dict)

    @property
    def forgotten_share(self) -> float:
        """Lost questions as a share of those that succeeded before."""
        return self.lost / max(1, self.kept + self.lost)


def with_flips(before: pl.DataFrame, after: pl.DataFrame) -> pl.DataFrame:
    """`after` on the common questions, with `lost`, `gained` and the answer before."""
    old = before.select(
        "suite",
        "sample_id",
        success_before="success",
        answer_before="answer",
        completion_before="completion",
    )
    return after.join(old, on=["suite", "sample_id"], how="inner").with_columns(
        lost=pl.col("success_before") & ~pl.col("success"),
        gained=~pl.col("success_before") & pl.col("success"),
    )


def flips(before: pl.DataFrame, after: pl.DataFrame) -> Flips:
    """Count the questions lost and gained from `before` to `after`."""
    frame = with_flips(before, after)

    def by_family(column: str) -> dict[str, int]:
        counted = frame.filter(pl.col(column)).group_by("family").len().sort("family")
        return {str(family): int(n) for family, n in counted.iter_rows()}

    return Flips(
        n=len(frame),
        kept=int((frame["success_before"] & frame["success"]).sum()),
        lost=int(frame["lost"].sum()),
        gained=int(frame["gained"].sum()),
        lost_by_family=by_family("lost"),
        gained_by_family=by_family("gained"),
    )
