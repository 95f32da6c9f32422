"""Text in a table that a spreadsheet opens: it must not be computed."""

from __future__ import annotations

import re

# What a spreadsheet takes for a formula; and with quotes before it, so that reading is writing's inverse.
_FORMULA = re.compile(r"'*[=+\-@\t\r]")


def no_formula(text: str) -> str:
    """The text as a cell that no spreadsheet computes: with a quote before what would be a formula."""
    return f"'{text}" if _FORMULA.match(text) else text


def as_written(cell: str) -> str:
    """The text of a cell that `no_formula` made."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell
