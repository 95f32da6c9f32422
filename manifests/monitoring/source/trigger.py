"""The row of the trigger service: what waits, what it decides, what fails."""

from __future__ import annotations

from collections.abc import Mapping

from manifests.monitoring.source.plots import END, Plot, last, rate


def _plot(title: str, unit: str, queries: Mapping[str, str], text: str = "") -> Plot:
    return Plot(title, unit, queries, need="trigger", text=text)


TRIGGER = (
    _plot(
        "Waiting",
        "short",
        {
            "events": last("pelican_trigger_pending_events", "namespace"),
            "batches": last("pelican_trigger_batches_unfinished", "namespace"),
        },
    ),
    _plot(
        "The oldest event waits for",
        "s",
        {"event": last("pelican_trigger_oldest_pending_seconds", "namespace")},
    ),
    _plot(
        "Decisions a second",
        "short",
        {"{{decision}}": rate("pelican_trigger_decisions_total", "decision", END)},
        text="What each tick decided, and why it waits.",
    ),
    _plot(
        "Events and requests a second",
        "short",
        {
            "events, {{result}}": rate("pelican_trigger_events_total", "result", END),
            "requests, {{result}}": rate("pelican_trigger_requests_total", "result", END),
        },
    ),
    _plot(
        "Batches of a day",
        "short",
        {
            "sealed": f"sum (increase(pelican_trigger_batches_sealed_total{END}[1d]))",
            "starts": f"sum (increase(pelican_trigger_starts_total{END}[1d]))",
            "{{outcome}}": (
                f"sum by (outcome) (increase(pelican_trigger_batches_finished_total{END}[1d]))"
            ),
        },
    ),
    _plot(
        "Failed ticks a second",
        "short",
        {"{{pod}}": rate("pelican_trigger_tick_errors_total", "pod", END)},
    ),
)
