"""The formats that an import reads: found by name, or by looking at the source.

A module of this package names its formats, one or several, in `READERS`.
"""

from __future__ import annotations

import importlib
import pkgutil
from difflib import get_close_matches
from functools import cache
from pathlib import Path

from pelican.data.formats.base import Options, Reader, Source
from pelican.data.signatures import pointer_in
from pelican.errors import UserInputError

SURE = 0.5  # below, a reader only guesses


@cache
def readers() -> dict[str, Reader]:
    """Every reader by name: the `READERS` of the modules of this package."""
    found: dict[str, Reader] = {}
    for module in pkgutil.iter_modules(__path__):
        of_module = getattr(importlib.import_module(f"{__name__}.{module.name}"), "READERS", ())
        found |= {reader.name: reader for reader in of_module}
    return dict(sorted(found.items()))


def find_reader(name: str) -> Reader:
    """Raises UserInputError that names the nearest reader."""
    known = readers()
    if name in known:
        return known[name]
    near = get_close_matches(name, known, 1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
    raise UserInputError(f"there is no reader {name!r}; {hint}")


def sniff(where: str, options: Options) -> tuple[Reader, dict[str, float]]:
    """The reader that fits best, and how well each one does (0 to 1, those of 0 left out).

    Raises UserInputError if none is sure, or if nothing is there.
    """
    if not Path(where).exists():
        raise UserInputError(
            f"there is nothing at {where!r}; for a Hugging Face data set by name add --reader hf"
        )
    source = Source(where)
    scores = {name: reader.sniff(source, options) for name, reader in readers().items()}
    fits = {name: score for name, score in scores.items() if score > 0}
    best = max(fits, key=lambda name: fits[name], default=None)
    if best is None or fits[best] < SURE:
        seen = ", ".join(source.names()[:5]) or "no file"
        if what := next(filter(None, map(pointer_in, source.files[:5])), ""):
            seen += f": {what}"
        raise UserInputError(
            f"no reader recognises {where} ({seen}); name one with --reader: {', '.join(readers())}"
        )
    return readers()[best], fits
