"""Counters are there before they count: the rate of a short stage has a point to start from."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest

from pelican.base import metrics as m
from pelican.monitoring import exporter, record
from tests.endpoints import free_port
from tests.monitoring.servers import get, values


@pytest.mark.parametrize(
    ("stage", "there"),
    [
        (
            "rollout",
            {
                'pelican_completions_total{finish="length"}',
                'pelican_completions_total{finish="stop"}',
                "pelican_tokens_generated_total",
            },
        ),
        (
            "distill",
            {'pelican_completions_total{finish="unknown"}', "pelican_tokens_generated_total"},
        ),
        ("train-sft", {"pelican_training_steps_total", "pelican_tokens_trained_total"}),
        (
            "train-rl",
            {
                'pelican_groups_total{variance="no"}',
                'pelican_groups_total{variance="yes"}',
                'pelican_groups_trained_total{variance="no"}',
                'pelican_groups_trained_total{variance="yes"}',
                "pelican_tokens_generated_total",
                "pelican_tokens_trained_total",
                "pelican_training_steps_total",
            },
        ),
    ],
)
def test_a_stage_that_has_done_nothing_yet_is_scraped_with_zeros(
    stage: str, there: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    monkeypatch.delenv(exporter.GATEWAY, raising=False)
    monkeypatch.setenv(exporter.PORT, f"127.0.0.1:{port}")
    begun = time.time()
    with exporter.open_stage(stage, "rl", "made", None) as telemetry:
        record.began(stage)
        found = values(get(f"http://127.0.0.1:{port}/metrics"))
        # So that a stage which never makes its first step shows as stuck.
        assert begun <= found.pop("pelican_last_step_timestamp_seconds") <= time.time()
        assert found == dict.fromkeys(there, 0.0)
        m.TOKENS_GENERATED.inc(3)
        assert (
            values(get(f"http://127.0.0.1:{port}/metrics"))["pelican_tokens_generated_total"] == 3
        )
        telemetry.finish()


@pytest.mark.parametrize(("processes", "shows"), [("1", True), ("2", False)])
def test_a_process_that_waits_never_hides_one_of_its_pod_that_is_stuck(
    processes: str, shows: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[float] = []
    monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
    monkeypatch.setattr(record.m, "LAST_STEP", SimpleNamespace(set=told.append))  # type: ignore[attr-defined]
    record.waited()
    assert bool(told) == shows
