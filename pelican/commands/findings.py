"""What `pelican doctor` tells: a line for each thing that it looked at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from pelican.errors import PelicanError

Level = Literal["ok", "missing", "optional"]


@dataclass(frozen=True)
class Finding:
    """One line: `optional` is missing but only some commands need it."""

    level: Level
    name: str
    about: str
    mend: str = ""


def look_at(name: str, look: Callable[[], str], mend: str) -> Finding:
    """What `look` says of a thing that is there, or the PelicanError that it raises."""
    try:
        return Finding("ok", name, look())
    except PelicanError as error:
        return Finding("missing", name, str(error), mend)
