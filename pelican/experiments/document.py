"""A section of a Markdown file that a command writes; the rest of the file is a person's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pelican.errors import UserInputError
from pelican.files import replacing


def around(path: Path, name: str) -> tuple[str, str]:
    """The text up to the first mark of section `name` and from the second; marks are made if none.

    Raises UserInputError if only one mark is there, or in the wrong order, or no folder for `path`.
    """
    if not path.parent.is_dir():
        raise UserInputError(f"there is no folder {path.parent} for {path.name}; make it")
    begin, end = (f"<!-- {name}: {what} -->" for what in ("begin", "end"))
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    counts = (text.count(begin), text.count(end))
    if counts == (0, 0):
        text = f"{text.rstrip()}\n\n{begin}\n{end}\n".lstrip()
    elif counts != (1, 1) or text.index(end) < text.index(begin):
        raise UserInputError(
            f"{path} has not one {begin!r} followed by one {end!r}; mend them, or delete them all"
        )
    before, _, rest = text.partition(begin)
    return before + begin, end + rest.partition(end)[2]


def rewrite(path: Path, name: str, lines: Sequence[str]) -> None:
    """Put `lines` between the marks of section `name`. Raises what `around` raises."""
    before, after = around(path, name)
    body = "\n".join(lines)
    with replacing(path) as file:
        file.write_text(f"{before}\n{body}\n{after}", encoding="utf-8")
