"""What a Prometheus series is. Without an exporter, setting one does nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol

Kind = Literal["counter", "gauge", "histogram", "summary"]
Unit = Literal["items", "seconds", "bytes", "ratio", "nats", "characters", "tokens", "none"]
# How the values of several processes become one; counters, histograms and summaries are summed.
Across = Literal["sum", "max", "mostrecent"]
# live: while a stage works; end: once, when it has finished; job: by whoever launches it.
Moment = Literal["live", "end", "job"]
COMMON = ("stage", "phase")
TENTHS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


class Sink(Protocol):
    """Where values go: an exporter's registry."""

    def of(self, series: Series, labels: dict[str, str]) -> Any:
        """prometheus_client's metric for these labels."""


SERIES: dict[str, Series] = {}
_sink: Sink | None = None


@dataclass(frozen=True)
class Series:
    """One metric family. `labels` are its own, beside COMMON; each has few values."""

    name: str
    kind: Kind
    unit: Unit
    help: str
    labels: tuple[str, ...] = ()
    across: Across = "mostrecent"
    moment: Moment = "live"
    buckets: tuple[float, ...] = TENTHS

    def __post_init__(self) -> None:
        SERIES[self.name] = self

    def inc(self, amount: float = 1.0, **labels: str) -> None:
        """Of a counter."""
        if _sink is not None:
            _sink.of(self, labels).inc(amount)

    def set(self, value: float, **labels: str) -> None:
        """Of a gauge."""
        if _sink is not None:
            _sink.of(self, labels).set(value)

    def observe(self, value: float, **labels: str) -> None:
        """Of a histogram or summary."""
        if _sink is not None:
            _sink.of(self, labels).observe(value)


def active() -> bool:
    """Whether values go anywhere."""
    return _sink is not None


def send_to(sink: Sink | None) -> None:
    """From now on values go to `sink`; None: nowhere."""
    global _sink
    _sink = sink
