"""`pelican data judge`: a judge model labels what rules were not sure of."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from pydantic import ValidationError

from pelican.data.importing.judged import judge_labels
from pelican.data.versions import LABELS
from pelican.errors import UserInputError
from pelican.recipe import JudgeConfig

REPORT_S = 10.0


def judge_and_print(
    pool: Path, endpoint: str, model: str, below: float, votes: int, workers: int
) -> None:
    """Raises UserInputError that names the option."""
    try:
        config = JudgeConfig(endpoint=endpoint, model=model, votes=votes, workers=workers)
    except ValidationError:
        raise UserInputError(f"--votes is {votes}; take an odd number, so that none ties") from None
    last = time.monotonic()

    def progress(asked: int) -> None:
        nonlocal last
        if time.monotonic() - last >= REPORT_S:
            last = time.monotonic()
            print(f"{asked:,} rows asked about", file=sys.stderr)

    found = judge_labels(pool, config, below, progress)
    left = found.asked - found.labelled
    print(
        f"{pool}: version {found.version.id}; {found.asked:,} rows below {below:g} were asked about,"
        f" {found.labelled:,} labelled ({found.moved:,} moved), {left:,} left as they were"
    )
    if found.labelled:
        print(
            f"{pool / LABELS} shows them with the judge's agreement; `pelican data correct` mends"
        )
