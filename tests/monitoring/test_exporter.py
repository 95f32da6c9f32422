"""Metrics leave a stage: several processes as one, short stages by a push, nothing without a place."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pelican.base import metrics as m
from pelican.errors import UserInputError
from pelican.monitoring import exporter, record
from pelican.monitoring import record as jobs
from tests.endpoints import free_port
from tests.monitoring.servers import get, pushgateway, values

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(autouse=True)
def _nothing_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (exporter.PORT, exporter.GATEWAY, exporter.FOLDER, "RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


def test_four_processes_of_a_pod_are_one_target(tmp_path: Path) -> None:
    port, size = free_port(), 4
    common = {**os.environ, "PYTHONPATH": str(ROOT), "WORLD_SIZE": str(size)}
    common |= {"LOCAL_WORLD_SIZE": str(size), exporter.PORT: f"127.0.0.1:{port}"}
    common |= {exporter.FOLDER: str(tmp_path / "values"), "MASTER_PORT": str(free_port())}
    stale = tmp_path / "values" / f"made-{common['MASTER_PORT']}"
    stale.mkdir(parents=True)
    (stale / "counter_1.db").write_bytes(b"of an earlier attempt")
    ranks = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.monitoring.worker", str(tmp_path)],
            env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(size)
    ]
    while not (tmp_path / "ready").exists():
        assert all(rank.poll() in (None, 0) for rank in ranks)
        time.sleep(0.01)
    text = get(f"http://127.0.0.1:{port}/metrics")
    (tmp_path / "scraped").touch()
    assert [rank.wait() for rank in ranks] == [0] * size
    found = values(text)
    assert found["pelican_tokens_generated_total"] == 10 + 20 + 30 + 40
    assert found['pelican_success_ratio_count{family="counting"}'] == size
    assert found['pelican_success_ratio_bucket{family="counting",le="0.5"}'] == 3
    assert found['pelican_reward_ratio_sum{component="total",family="counting"}'] == 0 + 1 + 2 + 3
    assert found["pelican_progress_done_items"] == 0 + 1 + 2 + 3
    assert found["pelican_progress_expected_items"] == 8 * size
    assert found["pelican_last_step_timestamp_seconds"] == 1003  # of the rank that is furthest
    assert found["pelican_training_learning_rate"] == 0.5  # all say the same: no sum
    assert "pid=" not in text and 'stage="rollout"' in text
    assert list((tmp_path / "values").iterdir()) == []


def test_without_a_place_nothing_is_imported_and_nothing_happens() -> None:
    code = """
import sys
from pelican.base import metrics
from pelican.monitoring import exporter, record
with exporter.open_stage("rollout", "rl", "key", None) as stage:
    metrics.LOSS.set(1.0)
    record.progressed(1, 2, counted=True)
    assert list(record.timed_each("generate", "abc")) == ["a", "b", "c"]
    stage.finish()
with record.watched("rollout", "rl") as watch:
    watch.working()
assert not metrics.active()
print(sorted(name for name in sys.modules if name.startswith(("prometheus", "torch", "polars"))))
"""
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (out.returncode, out.stdout) == (0, "[]\n"), out.stderr


def test_a_short_stage_pushes_once_and_the_next_run_takes_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pushgateway(tmp_path) as url:
        monkeypatch.setenv(exporter.GATEWAY, url)
        for samples in (7, 9):  # two runs
            with exporter.open_stage("filter", "rl", "key", list) as stage:
                m.BUFFER.set(samples, set="buffer")
                m.TOKENS_GENERATED.inc(3)
                stage.finish()
        text = get(f"{url}/metrics")
    found = values(text)
    assert found['pelican_buffer_samples{set="buffer"}'] == 9
    assert found["pelican_tokens_generated_total"] == 3
    assert sum(line.startswith("pelican_buffer_samples{") for line in text.splitlines()) == 1


def test_a_long_stage_is_scraped_and_pushes_only_its_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    with pushgateway(tmp_path) as url:
        monkeypatch.setenv(exporter.GATEWAY, url)
        monkeypatch.setenv(exporter.PORT, f"127.0.0.1:{port}")
        with exporter.open_stage("eval", "rl", "key", list) as stage:
            m.TOKENS_GENERATED.inc(3)
            m.SCORE.set(0.4, suite="embodied")
            live = values(get(f"http://127.0.0.1:{port}/metrics"))
            stage.finish()
        pushed = values(get(f"{url}/metrics"))
    assert live == {"pelican_tokens_generated_total": 3.0}
    assert pushed['pelican_evaluation_score_ratio{suite="embodied"}'] == 0.4
    assert "pelican_tokens_generated_total" not in pushed


def test_a_job_is_pending_then_running_then_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pushgateway(tmp_path) as url:
        monkeypatch.setenv(exporter.GATEWAY, url)

        def state() -> str:
            found = values(get(f"{url}/metrics"))
            (name,) = (k for k, v in found.items() if k.startswith("pelican_job_state{") and v)
            return name.partition('"')[2].rstrip('"}')

        with pytest.raises(UserInputError), jobs.watched("train-rl", "rl") as watch:
            assert state() == "pending"
            watch.working()
            assert state() == "running"
            raise UserInputError("made")
        assert state() == "failed"
        assert values(get(f"{url}/metrics"))['pelican_job_failed{kind="user"}'] == 1


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        (exporter.PORT, "127.0.0.1:notaport", "can't be served"),
        (exporter.PORT, "127.0.0.1:99999", "can't be served"),
        (exporter.GATEWAY, "http://127.0.0.1:9", "takes no metrics"),
    ],
)
def test_trouble_with_metrics_is_a_warning_and_ends_nothing(
    name: str,
    value: str,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(name, value)
    if name == exporter.PORT:
        with exporter.open_stage("rollout", "rl", "key", list) as stage:
            m.TOKENS_GENERATED.inc()
            stage.finish()
    else:  # asked at each change of state, told once
        with record.watched("rollout", "rl") as watch:
            watch.working()
            watch.succeeded(1)
    err = capsys.readouterr().err
    assert said in err and value in err and err.count("\n") == 1


def test_without_a_folder_to_share_a_process_tells_of_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    port = free_port()
    for name, value in (("WORLD_SIZE", "2"), ("RANK", "0"), (exporter.FOLDER, tmp_path / "file")):
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv(exporter.PORT, f"127.0.0.1:{port}")
    with exporter.open_stage("rollout", "rl", "key", list) as stage:
        m.TOKENS_GENERATED.inc(2)
        found = values(get(f"http://127.0.0.1:{port}/metrics"))
        stage.finish()
    assert found["pelican_tokens_generated_total"] == 2
    assert "share no metrics" in capsys.readouterr().err


def test_nan_in_a_trainers_log_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    monkeypatch.setenv(exporter.PORT, f"127.0.0.1:{port}")
    with exporter.open_stage("train-rl", "rl", "key", list) as stage:
        for norm in (0.5, float("nan"), float("inf")):
            record.logged({"loss": 0.1, "grad_norm": norm, "clip_ratio/region_mean": 0.25})
        found = values(get(f"http://127.0.0.1:{port}/metrics"))
        stage.finish()
    assert found['pelican_training_not_finite_total{quantity="grad_norm"}'] == 2
    assert found['pelican_training_not_finite_total{quantity="loss"}'] == 0
    assert found["pelican_training_clip_ratio"] == 0.25
