"""`results.parquet`: one row for every held-out sample that a policy answered."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypedDict

import polars as pl
import pyarrow as pa

from pelican.data.tables import write_table
from pelican.errors import UserInputError
from pelican.records import Rollout, Sample, Score

Suite = Literal["embodied", "general"]
SHORT_CLIP_S = 32.0  # the clips of loop 1; longer ones come from loop 2 on


class ResultRow(TypedDict):
    """`task` is the task reward in 0 … 1, `format` the format reward, `chance` blind guessing."""

    sample_id: str
    suite: str
    family: str
    dimension: str
    benchmark: str
    horizon: str
    scene: str
    task: float
    success: bool
    format: float
    tokens: int
    think_chars: int
    chance: float
    completion: str
    answer: str
    reason: str


_KINDS = {str: pa.string(), float: pa.float64(), bool: pa.bool_(), int: pa.int32()}
_TYPES: dict[str, type] = {
    "task": float,
    "success": bool,
    "format": float,
    "tokens": int,
    "think_chars": int,
    "chance": float,
}
RESULTS = pa.schema([(name, _KINDS[_TYPES.get(name, str)]) for name in ResultRow.__annotations__])


def horizon_of(sample: Sample) -> str:
    """`image`, or a clip of up to or over 32 s."""
    if sample.media_kind == "image":
        return "image"
    return "clip_to_32s" if sample.span_s <= SHORT_CLIP_S else "clip_over_32s"


def result_row(sample: Sample, suite: Suite, rollout: Rollout, score: Score) -> ResultRow:
    """What is kept of one answered sample."""
    return ResultRow(
        sample_id=sample.id,
        suite=suite,
        family=sample.family.value,
        dimension=sample.dimension.value,
        benchmark=sample.benchmark,
        horizon=horizon_of(sample),
        scene=sample.scene,
        task=score.task,
        success=score.success,
        format=score.format,
        tokens=rollout.tokens,
        think_chars=score.think_chars,
        chance=sample.chance,
        completion=rollout.completion,
        answer=score.answer,
        reason=score.reason,
    )


def write_results(path: Path, rows: Sequence[ResultRow]) -> None:
    """Write rows to one Parquet file."""
    write_table(path, pa.Table.from_pylist(list(rows), schema=RESULTS))


def read_results(path: Path) -> pl.DataFrame:
    """The results of an eval stage, by its folder or file, sorted by suite and sample."""
    file = path / "results.parquet" if path.is_dir() else path
    if not file.exists():
        raise UserInputError(f"{file} does not exist; is {path} the output of an eval stage?")
    frame = pl.read_parquet(file)
    missing = [name for name in RESULTS.names if name not in frame.columns]
    if missing:
        raise UserInputError(f"{file} lacks the columns {', '.join(missing)}; run eval again")
    return frame.sort("suite", "sample_id")
