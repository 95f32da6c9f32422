"""Whether a number is a count or a length, and in which unit."""

from __future__ import annotations

import re

from pelican.data.quarantine import RowError
from pelican.records import Answer, CountAnswer, DistanceAnswer

# What sources write: our unit, and how many of ours it is.
UNITS: dict[str, tuple[str, float]] = {
    **dict.fromkeys(("mm", "millimeter", "millimeters", "millimetres"), ("mm", 1.0)),
    **dict.fromkeys(("cm", "centimeter", "centimeters", "centimetre", "centimetres"), ("cm", 1.0)),
    **dict.fromkeys(("m", "meter", "meters", "metre", "metres"), ("m", 1.0)),
    **dict.fromkeys(("in", "inch", "inches"), ("in", 1.0)),
    **dict.fromkeys(("ft", "foot", "feet"), ("ft", 1.0)),
    **dict.fromkeys(("km", "kilometers", "kilometres"), ("m", 1000.0)),
}
_IN_UNIT = re.compile(r"\bin\s+(?:square\s+)?([a-z]+)\b", re.IGNORECASE)
HOW_MANY = re.compile(r"\bhow many\b|\bnumber of\b|\bcount\b", re.IGNORECASE)


def number_of(value: float, unit: str, question: str, question_type: str) -> Answer:
    """A count or a length, by the unit, the question and its type. Raises RowError."""
    if not unit and (match := _IN_UNIT.search(question)) and match[1].lower() in UNITS:
        unit = match[1]
    counted = "count" in question_type.lower() or bool(HOW_MANY.search(question))
    if unit and not (counted and float(value).is_integer() and not _IN_UNIT.search(question)):
        known = UNITS.get(unit.lower())
        if known is None:
            raise RowError("answer", f"{unit!r} is no unit of length that is known")
        if value <= 0:
            raise RowError("answer", f"a length of {value:g} {unit} can't be scored")
        return DistanceAnswer(value=value * known[1], unit=known[0])
    if float(value).is_integer() and value >= 0:
        return CountAnswer(value=int(value))
    raise RowError("answer", f"{value:g} is no count, and no unit is given; add a field unit")
