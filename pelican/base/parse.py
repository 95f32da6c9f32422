"""Text of a store, a file or a network as JSON: a value, or one kind of error."""

from __future__ import annotations

import json
from typing import Any


class JSONError(ValueError):
    """The text is no JSON, or is nested deeper than anything that was written on purpose."""


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text, whoever wrote it. Raises JSONError, and nothing else."""
    try:
        return json.loads(text)
    except RecursionError:
        raise JSONError("it is nested too deeply") from None
    except ValueError as error:  # also bytes that are no UTF-8, and a number of 5,000 digits
        raise JSONError(str(error)) from None
