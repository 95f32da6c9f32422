"""Prometheus and a Pushgateway on this machine, with Pelican's rules, beside a local run.

Grafana is not needed: one HTML page draws the same panels with the same queries.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import yaml

from manifests.monitoring.source import BOARDS
from manifests.monitoring.source.plots import Plot
from pelican.config import env
from pelican.errors import UserInputError

PROMETHEUS, GATEWAY, STAGES = 9090, 9091, 9464
RULES = "manifests/monitoring/rules.yaml"


def configuration(stages: str, gateway: str, interval_s: int = 5) -> dict[str, object]:
    """Prometheus' settings: the stages' port, the Pushgateway with the labels of who pushed."""
    return {
        "global": {
            "scrape_interval": f"{interval_s}s",
            "scrape_timeout": f"{interval_s}s",
            "evaluation_interval": f"{interval_s}s",
        },
        "rule_files": ["rules.yaml"],
        "scrape_configs": [
            {"job_name": "pelican-stages", "static_configs": [{"targets": [stages]}]},
            {
                "job_name": "pushgateway",
                "honor_labels": True,
                "static_configs": [{"targets": [gateway]}],
            },
        ],
    }


def plain_rules() -> str:
    """The PrometheusRule's groups as Prometheus itself and promtool read them."""
    resource = yaml.safe_load((env.home() / RULES).read_text(encoding="utf-8"))
    return yaml.safe_dump(resource["spec"], sort_keys=False, allow_unicode=True)


def plain_query(query: str) -> str:
    """A panel's query without Grafana's variables."""
    for name, value in (("$namespace", ".*"), ("$stage", ".*"), ("$__rate_interval", "1m")):
        query = query.replace(name, value)
    return query


def page(base: str) -> str:
    """The dashboards as one HTML file that asks the Prometheus at `base` and draws the panels."""
    boards = [
        {
            "title": board.title,
            "rows": [
                {"title": title, "plots": [_plain(plot) for plot in plots]}
                for title, plots in board.rows.items()
            ],
        }
        for board in BOARDS
    ]
    text = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    data = json.dumps(boards).replace("<", "\\u003c")
    return text.replace("__BOARDS__", data).replace("__PROMETHEUS__", base)


def _plain(plot: Plot) -> dict[str, object]:
    queries = {legend: plain_query(query) for legend, query in plot.queries.items()}
    return {"title": plot.title, "unit": plot.unit, "text": plot.text, "queries": queries}


def write_configuration(folder: Path, stages: str, gateway: str, interval_s: int = 5) -> Path:
    """`prometheus.yml` and `rules.yaml`; gives the former."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rules.yaml").write_text(plain_rules(), encoding="utf-8")
    path = folder / "prometheus.yml"
    path.write_text(yaml.safe_dump(configuration(stages, gateway, interval_s)), encoding="utf-8")
    return path


def commands(folder: Path, config: Path, prometheus: int, gateway: int) -> list[list[str]]:
    """How to start both, on this machine's own address."""
    return [
        [
            program("prometheus-pushgateway"),
            f"--web.listen-address=127.0.0.1:{gateway}",
            f"--persistence.file={folder / 'pushgateway.data'}",
        ],
        [
            program("prometheus"),
            f"--config.file={config}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{prometheus}",
        ],
    ]


def program(name: str) -> str:
    """Its path. Raises UserInputError with the command that brings it."""
    found = shutil.which(name)
    if found is None:
        raise UserInputError(
            f"{name} is not on the PATH; `apt-get install prometheus prometheus-pushgateway`"
            " brings it"
        )
    return found


def serve(folder: Path) -> None:
    """Run both until Ctrl-C, and say what to do with them."""
    config = write_configuration(folder, f"127.0.0.1:{STAGES}", f"127.0.0.1:{GATEWAY}")
    base = f"http://127.0.0.1:{PROMETHEUS}"
    with _running(commands(folder, config, PROMETHEUS, GATEWAY), folder) as processes:
        shown = folder / "dashboards.html"
        shown.write_text(page(base), encoding="utf-8")
        print(
            "Start a run that shows up here:\n"
            f"  PELICAN_METRICS_PORT=127.0.0.1:{STAGES}"
            f" PELICAN_PUSHGATEWAY=http://127.0.0.1:{GATEWAY} make submit\n"
            f"panels  {shown}\n"
            f"alerts  {base}/alerts\n"
            "Grafana imports manifests/monitoring/dashboards/*.json. Ctrl-C ends.",
            flush=True,
        )
        while all(process.poll() is None for process in processes):
            time.sleep(0.5)
        raise UserInputError(
            f"Prometheus or the Pushgateway ended; are ports {PROMETHEUS} and {GATEWAY} taken?"
            f" See {folder}/*.log"
        )


@contextmanager
def _running(
    lines: Sequence[Sequence[str]], folder: Path
) -> Iterator[list[subprocess.Popen[bytes]]]:
    """The programs, ended at the block's end, at Ctrl-C and at SIGTERM."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise SystemExit(0)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for line in lines:
            with (folder / f"{Path(line[0]).name}.log").open("wb") as log:
                processes.append(subprocess.Popen(line, stdout=log, stderr=subprocess.STDOUT))
        yield processes
    finally:
        for process in processes:
            process.terminate()
            process.wait()
