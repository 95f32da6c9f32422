"""Where new data is delivered, as the trigger takes its settings; and how it leaves a run behind."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from pelican.errors import UserInputError
from pelican.retrain.trigger.config import TriggerConfig, located
from pelican.retrain.trigger.worker import CommandSubmitter
from pelican.storage.s3 import S3Store

RUN = """
import signal, sys, time
from pathlib import Path

def end(*_):
    Path(__file__).with_name("asked").touch()
    sys.exit()

signal.signal(signal.SIGTERM, end)
Path(__file__).with_name("begun").touch()
time.sleep(600)
"""


@pytest.mark.parametrize(
    ("store", "settings", "events", "source", "bucket"),
    [
        ("s3://pelican", {"prefix": "incoming/"}, True, "s3://pelican", "pelican"),
        ("s3://pelican/prod", {"prefix": "incoming/"}, True, "s3://pelican", "pelican"),
        ("s3://pelican/prod", {"prefix": "incoming/"}, False, "s3://pelican/prod", None),
        ("s3://pelican/prod", {"source": "s3://fleet"}, True, "s3://fleet", "fleet"),
        ("s3://pelican", {"source": "s3://fleet/day"}, False, "s3://fleet/day", None),
        ("s3://pelican-2", {"source": "s3://pelican"}, True, "s3://pelican", "pelican"),
        ("/store", {"source": "/fleet", "bucket": "robots"}, True, "/fleet", "robots"),
    ],
)
def test_the_source_is_where_the_events_keys_are(
    store: str, settings: dict[str, str], events: bool, source: str, bucket: str | None
) -> None:
    found = located(TriggerConfig.model_validate(settings), store, events=events)
    assert (found.source, found.bucket) == (source, bucket)


@pytest.mark.parametrize(
    ("store", "settings", "events", "words"),
    [
        ("s3://pelican", {}, True, "PELICAN_TRIGGER_PREFIX"),
        ("s3://pelican/prod", {}, True, "would count as new data"),
        ("s3://pelican/prod", {"prefix": "prod/"}, True, "would count as new data"),
        ("s3://pelican/prod", {"prefix": "ru"}, False, "would count as new data"),
        ("/store", {}, False, "would count as new data"),
        ("/fleet/store", {"source": "/fleet"}, False, "would count as new data"),
        ("s3://pelican", {"source": "s3://fleet/day"}, True, "SOURCE is s3://fleet/day"),
    ],
)
def test_a_place_that_would_start_runs_without_end_or_never_is_refused(
    store: str, settings: dict[str, str], events: bool, words: str
) -> None:
    with pytest.raises(UserInputError, match=words):
        located(TriggerConfig.model_validate(settings), store, events=events)


@pytest.mark.parametrize(("launcher", "asked"), [("local", True), ("pytorchjob", False)])
def test_stages_end_with_the_trigger_and_jobs_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, launcher: str, asked: bool
) -> None:
    """A call that is asked to end deletes its run's job; one that is killed leaves it for others."""
    (tmp_path / "kubeconfig").write_text("")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    store = S3Store("s3://bucket/prefix", cache=tmp_path)
    submitter = CommandSubmitter(store, TriggerConfig(launcher=launcher))
    program = tmp_path / "run.py"
    program.write_text(RUN)
    submitter.command = [sys.executable, str(program)]
    submitter.start("data", "tiny:1", "run")
    while not (tmp_path / "begun").exists():
        time.sleep(0.02)
    submitter.stop()
    assert (tmp_path / "asked").exists() == asked
