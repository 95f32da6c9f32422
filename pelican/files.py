"""Files that are there whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`; the file takes its place if the block ends well."""
    temporary = path.with_name(f".{path.name}.tmp")
    yield temporary
    temporary.replace(path)
