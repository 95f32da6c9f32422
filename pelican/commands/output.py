"""Where a command shall write: looked at before the work, so that a wrong path costs nothing."""

from __future__ import annotations

import os
from pathlib import Path

from pelican.errors import UserInputError


def check_output(path: Path, option: str, *, folder: bool = False) -> Path:
    """`path`, its parent made. Raises UserInputError if a file, or a folder, can't be written there."""
    given = f"{option} {path}"
    if path.is_dir() and not folder:
        raise UserInputError(f"{given} is a folder; give the path of a file")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserInputError(
            f"{given} can't be written: {path.parent}: {error.strerror}; give another path"
        ) from None
    if not os.access(path.parent, os.W_OK):
        raise UserInputError(f"{given} can't be written: no permission; give another path")
    return path


def counted(number: int, one: str, more: str) -> str:
    """`1 row` or `2 rows`."""
    return f"{number:,} {one if number == 1 else more}"
