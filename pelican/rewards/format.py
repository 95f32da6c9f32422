"""The shape of a completion: one thought, then one answer."""

from __future__ import annotations

import re

_WORD = re.compile(r"\w")
_TAGS = ("<think>", "</think>", "<answer>", "</answer>")


def format_reward(completion: str, max_think_chars: int) -> float:
    """1 for exactly one `<think>…</think>` and then one `<answer>…</answer>`, else 0.

    Both hold at least one letter or digit ("..." is an empty thought), nothing but white space
    stands around them, and the thought is no longer than `max_think_chars` characters.
    """
    for tag in _TAGS:
        if completion.count(tag) != 1:
            return 0.0
    text = completion.strip()
    if not (text.startswith("<think>") and text.endswith("</answer>")):
        return 0.0
    think, closed, rest = text[len("<think>") :].partition("</think>")
    between, opened, answer = rest.partition("<answer>")
    if not (closed and opened) or between.strip():
        return 0.0
    filled = _WORD.search(think) and _WORD.search(answer[: -len("</answer>")])
    return 1.0 if filled and len(think.strip()) <= max_think_chars else 0.0


def think_chars(completion: str) -> int:
    """Characters of the thought, white space around it left out; also where the tags are broken.

    Without `<think>` the thought is what stands before `</think>` (templates that open it in the
    prompt); without `</think>` it runs to the end (a completion that was cut).
    """
    before, closed, _ = completion.rpartition("</think>")
    body = before if closed else completion
    _, opened, think = body.partition("<think>")
    if opened:
        return len(think.strip())
    return len(body.strip()) if closed else 0
