"""What Prometheus scrapes of one replica; a registry of its own, so that several fit a process."""

from __future__ import annotations

from typing import Literal, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

# What a tick decided, or what it waits for.
Decision = Literal["sealed", "quiet", "idle", "held", "started", "running", "backoff", "finished"]


class Metrics:
    """Counters and gauges of the trigger. Labels have few values, none from a request."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

        def counter(name: str, about: str, *labels: str) -> Counter:
            return Counter(f"pelican_trigger_{name}", about, labels, registry=self.registry)

        def gauge(name: str, about: str) -> Gauge:
            return Gauge(f"pelican_trigger_{name}", about, registry=self.registry)

        self.requests = counter("requests", "Requests by what became of them", "result")
        self.events = counter("events", "Events by what became of them", "result")
        self.sealed = counter("batches_sealed", "Batches that this replica made")
        self.started = counter("starts", "Starts of runs, repeated ones too")
        self.finished = counter("batches_finished", "Batches by how they ended", "outcome")
        self.decisions = counter(
            "decisions",
            "What ticks decided: sealed, quiet (waits for more events), idle, held (another replica"
            " works), started, running, backoff (waits to start again), finished",
            "decision",
        )
        for decision in get_args(Decision):  # at 0 from the start: a rate takes two scrapes
            self.decisions.labels(decision)
        self.errors = counter("tick_errors", "Ticks that failed, such as when the store is away")
        self.pending = gauge("pending_events", "Events that wait for their batch")
        self.oldest = gauge("oldest_pending_seconds", "How long the oldest of them has waited")
        self.backlog = gauge("batches_unfinished", "Batches that are sealed and not finished")

    def text(self) -> bytes:
        return generate_latest(self.registry)
