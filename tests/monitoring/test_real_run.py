"""A real run, small, scraped by a real Prometheus: every series, every panel, no alert."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import pelican.base.metrics  # noqa: F401  names the series
from manifests.monitoring.source import BOARDS
from manifests.monitoring.source.local import commands, page, plain_query, write_configuration
from pelican.base.metrics import SERIES
from pelican.config.env import home
from tests.endpoints import free_port
from tests.monitoring.servers import get, program, running

# The trainers log every five steps, and what they logged must be there for more than a scrape, a second.
OVERRIDES = (
    "loops=1 data.samples_per_loop=24 rollout.samples=4 rollout.workers=1 rollout.shard_size=12"
    " rl.max_steps=25 rl.min_steps=25 rl.stop.window=1 rl.stop.threshold=1 rl.prompts_per_step=2"
    " rl.group_size=4 rl.processes=2 sft.max_steps=25 sft.batch_size=4 sft.processes=1"
    " distill.max_rows=12 distill.tries=1 eval.bootstrap=200"
)
# A GPU, a store or a job that fails: not in this run.
ABSENT = {
    "pelican_gpu_memory_bytes",
    "pelican_store_retries_total",
    "pelican_store_errors_total",
    "pelican_job_failed",
}
# What a run of a few minutes can't have; a gate may rightly stop so short a training.
MAY_FIRE = {"PelicanForgetting", "PelicanGateClosed", "PelicanNoNewData"}


class Prometheus:
    """Questions to a running Prometheus."""

    def __init__(self, url: str, run: Path = Path()) -> None:
        self.url, self.run = url, run

    def ask(self, path: str, **parameters: str) -> Any:
        answer = get(f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}")
        return json.loads(answer)["data"]

    def names(self) -> set[str]:
        """The series that were ever scraped, histograms and summaries by their own name."""
        found = {name for name in self.ask("label/__name__/values") if name.startswith("pelican_")}
        return {name.removesuffix("_count") for name in found} & set(SERIES)

    def has_data(self, query: str, start: float, end: float) -> bool:
        """Whether a panel would show anything between two Unix times."""
        step = max(1.0, (end - start) / 2000)
        asked = {"query": plain_query(query), "start": str(start), "end": str(end)}
        return bool(self.ask("query_range", step=str(step), **asked)["result"])

    def span(self) -> tuple[float, float]:
        """First and last Unix time with a series of ours."""
        oldest = self.ask("query", query="min_over_time(timestamp(up)[12h:1s])")["result"]
        newest = self.ask("query", query="timestamp(up)")["result"]
        return min(float(r["value"][1]) for r in oldest), max(float(r["value"][1]) for r in newest)


def missing(prometheus: Prometheus) -> tuple[set[str], list[str]]:
    """Documented series that were not scraped, and panels without data."""
    start, end = prometheus.span()
    empty = [
        f"{board.title}: {plot.title}: {legend}"
        for board in BOARDS
        for plots in board.rows.values()
        for plot in plots
        if not plot.need
        for legend, query in plot.queries.items()
        if not prometheus.has_data(query, start, end)
    ]
    return set(SERIES) - prometheus.names() - ABSENT, empty


def some_rows(pool: Path, target: Path, count: int = 24) -> None:
    """A small pool with rows from all over a shipped one."""
    table = pq.read_table(next(pool.glob("part-*.parquet")))
    target.mkdir()
    rows = list(range(0, table.num_rows, table.num_rows // count))[:count]
    pq.write_table(table.take(rows), target / "part-000.parquet", compression="zstd")


@pytest.fixture(scope="module")
def scraped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Prometheus after a metaloop of one loop with two trainers side by side."""
    folder = tmp_path_factory.mktemp("prometheus")
    stages, gateway, web = free_port(), free_port(), free_port()
    config = write_configuration(folder, f"127.0.0.1:{stages}", f"127.0.0.1:{gateway}", 1)
    program("prometheus"), program("prometheus-pushgateway")
    pushing, scraping = commands(folder, config, web, gateway)
    url = f"http://127.0.0.1:{web}"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment["PELICAN_METRICS_PORT"] = f"127.0.0.1:{stages}"
    environment["PELICAN_PUSHGATEWAY"] = f"http://127.0.0.1:{gateway}"
    command = [sys.executable, "-m", "pelican", "submit", "--run", "small"]
    pools = f" data.evaluation={folder}/dev data.general={folder}/general"
    for name in ("dev", "general"):
        some_rows(home() / "samples" / name, folder / name)
    command += ["--store", str(folder / "store"), "--set", OVERRIDES + pools]
    with (
        running(pushing, f"http://127.0.0.1:{gateway}", folder / "gateway.log"),
        running(scraping, url, folder / "prometheus.log"),
    ):
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        yield Prometheus(url, folder / "store/runs/small")


needs_teacher = pytest.mark.skipif(
    not (home() / "models/tiny-teacher/model.safetensors").exists(),
    reason="models/tiny-teacher is not there; `make base-model` trains it",
)


@needs_teacher
@pytest.mark.long
def test_every_documented_series_and_panel_is_there(scraped: Prometheus) -> None:
    series, panels = missing(scraped)
    assert (series, panels) == (set(), [])


@needs_teacher
@pytest.mark.long
def test_two_trainers_are_one_target(scraped: Prometheus) -> None:
    """Every rank counts its share; rank 0 alone has about half of what the manifest sums up."""
    manifest = json.loads((scraped.run / "loop-1/train-rl-rl/manifest.json").read_text())
    query = 'max_over_time(sum(pelican_rollouts_total{stage="train-rl"})[12h:1s])'
    counted = float(scraped.ask("query", query=query)["result"][0]["value"][1])
    completions = manifest["counts"]["completions"]
    assert 0.75 * completions < counted <= completions  # the last scrape may miss the last step


@needs_teacher
@pytest.mark.long
def test_a_run_in_order_raises_no_alert(scraped: Prometheus) -> None:
    fired = scraped.ask("query", query="max_over_time(ALERTS{alertstate='firing'}[12h])")["result"]
    assert {found["metric"]["alertname"] for found in fired} <= MAY_FIRE
    groups = scraped.ask("rules")["groups"]
    assert {rule["health"] for group in groups for rule in group["rules"]} == {"ok"}


@needs_teacher
@pytest.mark.long
def test_the_local_page_draws_every_panel(scraped: Prometheus, tmp_path: Path) -> None:
    text = drawn(page(scraped.url), tmp_path)
    plots = [plot for board in BOARDS for plots in board.rows.values() for plot in plots]
    empty = sum(bool(plot.need) for plot in plots)
    assert f"{len(plots) - empty} of {len(plots)} panels have data." in text
    assert text.count("no data") - page(scraped.url).count("no data") == empty


def drawn(text: str, folder: Path) -> str:
    """The page after headless Chromium has run it, as HTML."""
    (folder / "page.html").write_text(text)
    command = [program("chromium"), "--headless", "--no-sandbox", "--disable-gpu"]
    command += [f"--user-data-dir={folder}/profile", "--virtual-time-budget=20000", "--dump-dom"]
    done = subprocess.run(
        [*command, (folder / "page.html").as_uri()], capture_output=True, text=True
    )
    return done.stdout


def test_the_local_page_says_that_prometheus_is_away(tmp_path: Path) -> None:
    text = drawn(page(f"http://127.0.0.1:{free_port()}"), tmp_path)
    assert "Prometheus doesn't answer at http://127.0.0.1:" in text
    assert text.count("<figure>") == sum(len(p) for b in BOARDS for p in b.rows.values())


def test_nan_in_a_real_process_raises_the_alert(tmp_path: Path) -> None:
    """From the trainer's log to Prometheus' alert, without waiting for a training."""
    stages, gateway, web = free_port(), free_port(), free_port()
    config = write_configuration(tmp_path, f"127.0.0.1:{stages}", f"127.0.0.1:{gateway}", 1)
    program("prometheus"), program("prometheus-pushgateway")
    _, scraping = commands(tmp_path, config, web, gateway)
    code = """
import sys
from pelican.monitoring import exporter, record
with exporter.open_stage("train-rl", "rl", "made", None):
    record.logged({"loss": 0.5, "grad_norm": float("nan")})
    print("set", flush=True)
    sys.stdin.read()
"""
    environment = {**os.environ, "PELICAN_METRICS_PORT": f"127.0.0.1:{stages}"}
    environment.pop("PELICAN_PUSHGATEWAY", None)
    with (
        subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=home(),
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as trainer,
        running(scraping, f"http://127.0.0.1:{web}", tmp_path / "prometheus.log") as url,
    ):
        assert trainer.stdout is not None and trainer.stdin is not None
        assert trainer.stdout.readline() == b"set\n"
        firing: list[Any] = []
        while not firing:
            assert trainer.poll() is None
            alerts = Prometheus(url).ask("alerts")["alerts"]
            firing = [alert for alert in alerts if alert["state"] == "firing"]
        trainer.stdin.close()
    assert [alert["labels"]["alertname"] for alert in firing] == ["PelicanNotFinite"]
    assert firing[0]["labels"]["quantity"] == "grad_norm"
