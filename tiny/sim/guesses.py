"""The best blind guess of every template, as `tiny.sim.chance` measured it."""

import json
from functools import lru_cache
from pathlib import Path

PATH = Path(__file__).with_name("guesses.json")


@lru_cache(maxsize=1)
def _table() -> dict[str, dict[str, str | float]]:
    table: dict[str, dict[str, str | float]] = json.loads(PATH.read_text(encoding="utf-8"))
    return table


def chance_of(template: str) -> float:
    """What the best guess earns on a template's questions; 0 for one that is not measured yet."""
    return float(_table()[template]["chance"]) if template in _table() else 0.0


def guess_of(template: str) -> str:
    """The guess itself, with the places of the question's words."""
    return str(_table()[template]["guess"])
