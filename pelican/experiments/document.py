"""A section of a Markdown file that a command writes; the rest of the file is a person's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pelican.errors import UserInputError
from pelican.files import replacing


def rewrite(path: Path, name: str, lines: Sequence[str]) -> None:
    """Put `lines` between the marks of section `name`; without marks, with them at the end.

    Raises UserInputError if only one mark is there, or in the wrong order.
    """
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
    after = rest.partition(end)[2]
    with replacing(path) as file:
        body = "\n".join(lines)
        file.write_text(f"{before}{begin}\n{body}\n{end}{after}", encoding="utf-8")
