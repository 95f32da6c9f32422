"""Parquet files as polars frames: a damaged one is one error, which names it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import polars as pl

from pelican.errors import DamagedError

# A flipped byte may let polars' own code panic, which is no Exception.
_BROKEN = (pl.exceptions.PolarsError, pl.exceptions.PanicException, UnicodeDecodeError)


def read_frame(path: Path, columns: list[str] | None = None) -> pl.DataFrame:
    """A Parquet file. Raises DamagedError if it can't be read as one."""
    with whole(path):
        return pl.read_parquet(path, columns=columns)


@contextmanager
def whole(*paths: Path) -> Iterator[None]:
    """For a block that reads these files: what polars raises of a damaged one becomes DamagedError."""
    try:
        yield
    except _BROKEN as error:
        raise _damaged(_first_broken(paths), error) from None
    except OSError as error:
        if error.errno is not None or "os error" in str(error):  # of the disk, not of the file
            raise
        raise _damaged(_first_broken(paths), error) from None


def _first_broken(paths: Sequence[Path]) -> Path:
    """The file that can't be read by itself, or their folder: each alone may seem whole."""
    for path in paths if len(paths) > 1 else ():
        try:
            pl.read_parquet(path)
        except (*_BROKEN, OSError):
            return path
    return paths[0] if len(paths) == 1 else paths[0].parent


def _damaged(path: Path, error: BaseException) -> DamagedError:
    why = " ".join(str(error).split())[:200]
    return DamagedError(
        f"{path} is damaged ({why}); restore it from a copy, or delete what it belongs to"
    )
