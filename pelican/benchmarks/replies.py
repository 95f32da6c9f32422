"""The final answer of a completion, and the published rules that read a choice from it.

The rules are those of the named harnesses, with their oddities, so that scores compare.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from pelican.rewards.extract import last_boxed

_ANSWER = re.compile(r"<answer>(.*?)(?:</answer>|\Z)", re.DOTALL)
_LEADING = re.compile(r"[(\s]*([A-Z])", re.IGNORECASE)
_CAPITAL = re.compile(r"[A-Z]")


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer's text; `tagged` if the completion marked it by `<answer>` or `\\boxed`."""

    text: str
    tagged: bool


def final_reply(completion: str) -> Reply:
    """What follows `</think>`; there the first `<answer>`, else the last `\\boxed{}`, else all of it.

    A thought that never ended is no answer. Without any of these marks this is the completion, so a
    model that does not think is scored as the benchmark's own code does.
    """
    rest = completion.rpartition("</think>")[2]
    block = _ANSWER.search(rest)
    if block:
        return Reply(block[1].strip(), tagged=True)
    rest = rest.partition("<think>")[0]
    boxed = last_boxed(rest)
    if boxed is not None:
        return Reply(boxed.strip(), tagged=True)
    return Reply(rest.strip(), tagged=False)


def first_word(text: str) -> str:
    """Up to the first space, without dots at its end (VSI-Bench)."""
    return text.split(" ")[0].rstrip(".").strip()


def leading_letter(text: str) -> str:
    """The first character after spaces and brackets, if it is a letter; "" if not.

    Any letter: "The answer is B" gives T (lmms-eval, tasks blink and embspatial).
    """
    found = _LEADING.match(text.strip())
    return found[1].upper() if found else ""


def first_capital(text: str) -> str:
    """The first capital letter, wherever it stands (Cosmos-Reason1)."""
    found = _CAPITAL.search(text)
    return found[0] if found else ""


def listed_letter(text: str, options: Sequence[str]) -> str:
    """A letter as "(B)", "B " or "B."; else, in a text of over five words, an option's own text.

    Of several the one whose last mention stands first. This is MMMU's parser as lmms-eval uses it
    for EgoSchema, but where that draws a letter at random this gives "".
    """
    for mark in ",.!?;:'":
        text = text.strip(mark)
    text = f" {text} "
    letters = [chr(ord("A") + i) for i in range(len(options))]
    places = [
        (place, letter)
        for form in ("({})", "{} ", "{}.")
        for letter in letters
        if (place := text.rfind(form.format(letter))) >= 0
    ]
    if not places and len(text.split()) > 5:
        lower = text.lower()
        places = [
            (place, letter)
            for letter, option in zip(letters, options, strict=True)
            if (place := lower.rfind(option.strip().lower())) >= 0
        ]
    return min(places, key=lambda found: found[0])[1] if places else ""
