"""Options as sources write them, and which of them an answer means."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from pelican.data.quarantine import RowError
from pelican.data.readers.base import Reference
from pelican.records import ChoiceAnswer
from pelican.rewards.parse.text import normalise

LETTER = re.compile(r"\s*(?:[(\[]([A-Za-z])[)\]]|([A-Z])[).:]|([A-Za-z])\s*$)(?=\s|$)")
_OPTION = re.compile(
    r"(?:^|\n|\s)\(?([A-H])[).:]\s*(.+?)(?=\s*(?:\n|\s)\(?[A-H][).:]\s|\s*$)", re.S
)


def bare_options(options: Sequence[str]) -> tuple[str, ...]:
    """Options without the letters that some sources put before them."""
    found = []
    for number, option in enumerate(options):
        letter = chr(ord("A") + number) if number < 26 else "?"
        match = re.match(rf"\s*\(?{letter}[).:]\s*(?=\S)", option)
        found.append(option[match.end() :].strip() if match else option.strip())
    return tuple(found)


def options_in(question: str) -> tuple[str, ...]:
    """The options that stand in a question as "A. … B. …"; empty if they are not A, B, C, …"""
    found = _OPTION.findall(question)
    letters = "".join(letter for letter, _ in found)
    if len(found) < 2 or letters != "ABCDEFGH"[: len(found)]:
        return ()
    return tuple(" ".join(text.split()) for _, text in found)


def choice_of(value: Any, reference: Reference) -> ChoiceAnswer:
    """The option that is named by its letter, its text or its index. Raises RowError."""
    options = bare_options(reference.options)
    if not 2 <= len(options) <= 26:
        raise RowError("answer", f"{len(options)} choices; two to 26 can be asked")
    if len({normalise(option) for option in options}) < len(options):
        raise RowError("answer", f"two choices are the same: {' / '.join(options)}")
    if isinstance(value, list | tuple) and len(value) == 1:
        value = value[0]
    at: int | None = None
    if isinstance(value, int) and not isinstance(value, bool):
        at = value
    elif isinstance(value, str):
        exact = [i for i, o in enumerate(options) if normalise(o) == normalise(value)]
        lettered = [i for i, o in enumerate(reference.options) if normalise(o) == normalise(value)]
        letter = LETTER.match(value)
        if exact or lettered:
            at = (exact or lettered)[0]
        elif letter:
            at = ord((letter[1] or letter[2] or letter[3]).upper()) - ord("A")
        elif value.strip().isdecimal() and reference.index:
            at = int(value)
    if at is None:
        raise RowError("answer", f"answer {value!r:.80} is none of its {len(options)} choices")
    if not 0 <= at < len(options):
        raise RowError("answer", f"answer {value!r} is outside its {len(options)} choices")
    return ChoiceAnswer(options=options, answer=chr(ord("A") + at))
