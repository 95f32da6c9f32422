"""Spans of time."""

from __future__ import annotations

import re

from pelican.rewards.base import Unscorable
from pelican.rewards.parse.numbers import number

_TIME = re.compile(
    r"(?:([0-9]+):)?([0-9]+):([0-9]{2}(?:\.[0-9]+)?)(?!\w)"
    r"|([0-9]+(?:\.[0-9]+)?|\.[0-9]+)\s*"
    r"(ms|milliseconds?|s|secs?|seconds?|m|mins?|minutes?)?(?!\w)",
    re.IGNORECASE,
)
_NEGATIVE = re.compile(r"(?:^|[\[(,]|\b(?:from|between|to|and)\s)\s*-\s*\.?[0-9]", re.IGNORECASE)


def parse_interval(text: str) -> tuple[float, float]:
    """Start and end in seconds: "8 to 16 s", "[8, 16]", "0:08 - 0:16", "1 to 2 min"."""
    if _NEGATIVE.search(text):
        raise Unscorable("unreadable", "a time below 0")
    times: list[tuple[float, float | None]] = []
    for hours, minutes, seconds, amount, unit in _TIME.findall(text):
        if minutes:
            value = 3600 * number(hours or "0") + 60 * number(minutes) + float(seconds)
            times.append((value, 1.0))
        else:
            times.append((number(amount), _time_factor(unit.lower())))
    if len(times) != 2:
        raise Unscorable(
            "several answers" if len(times) > 2 else "unreadable", f"{len(times)} times"
        )
    last = times[1][1] or 1.0
    start, end = times[0][0] * (times[0][1] or last), times[1][0] * last
    if not start < end:
        raise Unscorable("unreadable", "the span ends before it starts")
    return start, end


def _time_factor(unit: str) -> float | None:
    """Seconds in a unit; None if none is given."""
    if not unit:
        return None
    if unit.startswith(("ms", "milli")):
        return 0.001
    return 1.0 if unit.startswith("s") else 60.0
