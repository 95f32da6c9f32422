"""The answer inside a completion, without its thinking, tags, Markdown and LaTeX."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from pelican.rewards.base import Unscorable
from pelican.rewards.parse.text import normalise

MAX_ANSWER_CHARS = 8000

_ANSWER = re.compile(r"<answer>(.*?)(?:</answer>|\Z)", re.DOTALL)
_STATEMENT = re.compile(r"\banswer\s*(?:is\b|:|=)\s*:?", re.IGNORECASE)
_LEAD = re.compile(
    r"\s*(?:the\s+|my\s+)?(?:final\s+|correct\s+|best\s+|right\s+)?"
    r"(?:answer|order|sequence|plan|steps)\s*(?:is\b|are\b|:|=)\s*:?",
    re.IGNORECASE,
)
_MARKUP = re.compile(r"\*\*|`{3}\w*|`|\$|\\[()\[\]]|\\(?:text|mathrm|mathbf)\s*(?=\{)")


@dataclass(frozen=True, slots=True)
class Extracted:
    """The answer's text; `tagged` if the completion marked it by `<answer>` or `\\boxed`."""

    text: str
    tagged: bool


def extract_answer(completion: str) -> Extracted:
    """What follows `</think>`; there inside `<answer>`, else the last `\\boxed{}`, else all of it.

    An `<answer>` that was never closed runs to the end. A thought that never ended is no answer.
    """
    rest = completion.rpartition("</think>")[2]
    blocks = [block.strip() for block in _ANSWER.findall(rest)]
    if blocks:
        if len({normalise(block) for block in blocks}) > 1:
            raise Unscorable("several answers", f"{len(blocks)} <answer> blocks")
        return _checked(_clean(blocks[0]), tagged=True)
    rest = rest.partition("<think>")[0]
    boxed = last_boxed(rest)
    if boxed is not None:
        return _checked(_clean(boxed), tagged=True)
    text = _clean(rest)
    statements = list(_STATEMENT.finditer(text))
    if statements:  # prose that ends in "… the answer is B."
        text = text[statements[-1].end() :].strip()
    return _checked(text, tagged=False)


def _checked(text: str, *, tagged: bool) -> Extracted:
    if not text:
        raise Unscorable("no answer")
    if len(text) > MAX_ANSWER_CHARS:
        raise Unscorable("refused", f"the answer is longer than {MAX_ANSWER_CHARS} characters")
    return Extracted(text, tagged)


def last_boxed(text: str) -> str | None:
    """The content of the last `\\boxed{…}`, with its inner braces; None if there is none."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    depth, begin = 1, start + len("\\boxed{")
    for position in range(begin, len(text)):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0:
            return text[begin:position]
    return text[begin:]


def _clean(text: str) -> str:
    """Drop Markdown and LaTeX dress, quotes around the whole, and "The answer is"."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    if "\\" in text or "*" in text or "`" in text or "$" in text:
        text = _MARKUP.sub("", text)
    text = text.strip()
    lead = _LEAD.match(text)
    if lead:
        text = text[lead.end() :].strip()
    while len(text) > 1 and (text[0], text[-1]) in {('"', '"'), ("'", "'"), ("“", "”"), ("{", "}")}:
        if text[0] == "{" and any(mark in text for mark in ":,"):
            break  # JSON, not LaTeX
        text = text[1:-1].strip()
    return text
