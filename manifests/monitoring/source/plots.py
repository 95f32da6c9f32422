"""What a dashboard is made of: plots with queries in PromQL, and the parts that queries share.

`$__rate_interval` and `$namespace`, `$stage` are Grafana's variables.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Kind = Literal["lines", "number"]


@dataclass(frozen=True)
class Plot:
    """`queries`: legend -> PromQL. `need`: what must be there for data, "" for every run."""

    title: str
    unit: str
    queries: Mapping[str, str]
    kind: Kind = "lines"
    need: Literal["", "gpu", "store errors", "trigger"] = ""
    text: str = ""


@dataclass(frozen=True)
class Board:
    """One dashboard: rows of plots."""

    uid: str
    title: str
    rows: Mapping[str, tuple[Plot, ...]]


LIVE = '{job!="pelican", namespace=~"$namespace", stage=~"$stage"}'
RL = '{job!="pelican", namespace=~"$namespace", stage="train-rl"}'
END = '{namespace=~"$namespace"}'


def rate(name: str, by: str, where: str = LIVE) -> str:
    """A counter's rate, summed over pods."""
    return f"sum by ({by}) (rate({name}{where}[$__rate_interval]))"


def mean(name: str, by: str, where: str) -> str:
    """The mean of what a summary or histogram saw lately."""
    return f"{rate(f'{name}_sum', by, where)} / {rate(f'{name}_count', by, where)}"


def last(name: str, by: str, more: str = "") -> str:
    """The newest value of a result, whichever pod pushed it."""
    return f'max by ({by}) ({name}{{namespace=~"$namespace"{more}}})'
