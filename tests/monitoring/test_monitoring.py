"""Alerts, dashboards, manifests and the documentation agree with the series that the code names."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import Counter, Gauge

import pelican.base.metrics  # noqa: F401  names the series
from manifests.monitoring.source import BOARDS
from manifests.monitoring.source.grafana import render
from manifests.monitoring.source.local import RULES, plain_rules, write_configuration
from manifests.monitoring.source.plots import Board
from pelican.base.metrics import COMMON, SERIES
from pelican.config.env import home
from pelican.retrain.trigger.config import Metrics
from tests.monitoring.servers import program

MONITORING = home() / "manifests" / "monitoring"
_NAME = re.compile(r"\bpelican_[a-z0-9_]+")
_ROW = re.compile(r"^\| `(pelican_\w+)` \| (\w+) \| (.*?) \| (\w+) \| (\w+) \| (.*?) \|$", re.M)


_TRIGGER = re.compile(r"^\| `(pelican_trigger_\w+)` \| (\w+) \| (.*?) \| (.*?) \|$", re.M)


def trigger_series() -> dict[str, tuple[str, str, str]]:
    """What a replica of the trigger counts: name -> type, labels, what it says."""
    made = vars(Metrics()).values()
    return {
        found._name + ("_total" if isinstance(found, Counter) else ""): (
            found._type,
            ", ".join(f"`{label}`" for label in found._labelnames),
            found._documentation,
        )
        for found in made
        if isinstance(found, Counter | Gauge)
    }


ALL = {*SERIES, *trigger_series()}


def known(names: set[str]) -> set[str]:
    """The series that queries name, those of histograms and summaries by their own name."""
    parts = re.compile(r"_(bucket|sum|count)$")
    return {name if name in SERIES else parts.sub("", name) for name in names}


def test_the_page_lists_every_series_as_the_code_has_it() -> None:
    found = {row[0]: row[1:] for row in _ROW.findall((home() / "docs/monitoring.md").read_text())}
    expected = {
        series.name: (
            series.kind,
            ", ".join(f"`{label}`" for label in series.labels),
            series.unit,
            series.moment,
            series.help,
        )
        for series in SERIES.values()
    }
    assert found == expected


def test_the_page_lists_the_triggers_series_too() -> None:
    text = (home() / "docs/monitoring.md").read_text()
    assert {row[0]: row[1:] for row in _TRIGGER.findall(text)} == trigger_series()
    assert not set(trigger_series()) & set(SERIES)


@pytest.mark.parametrize("name", sorted(SERIES))
def test_a_series_is_named_as_prometheus_wants_it(name: str) -> None:
    series = SERIES[name]
    assert name.startswith("pelican_")
    assert (series.kind == "counter") == name.endswith("_total")
    base = name.removesuffix("_total")
    if series.unit in ("seconds", "bytes", "ratio", "nats", "characters"):
        assert base.endswith(f"_{series.unit}"), f"{name} doesn't end in its unit"
    forbidden = {"run", "sample", "sample_id", "policy", "pid", "pod", *COMMON}
    assert not forbidden & set(series.labels)


def test_promtool_accepts_the_rules_and_each_alert_fires_on_its_fault(tmp_path: Path) -> None:
    promtool = program("promtool")
    (tmp_path / "rules.yaml").write_text(plain_rules())
    (tmp_path / "test.yaml").write_text(Path(__file__).with_name("rules_test.yaml").read_text())
    for command in (["check", "rules", "rules.yaml"], ["test", "rules", "test.yaml"]):
        done = subprocess.run([promtool, *command], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tested_says_what_to_do_and_names_series_that_exist() -> None:
    spec = yaml.safe_load((home() / RULES).read_text())["spec"]
    rules = [rule for group in spec["groups"] for rule in group["rules"]]
    names = {name for rule in rules for name in _NAME.findall(rule["expr"])}
    assert known(names) <= ALL
    alerts = [rule for rule in rules if "alert" in rule]
    tested = Path(__file__).with_name("rules_test.yaml").read_text()
    for alert in alerts:
        assert {"summary", "action"} == set(alert["annotations"]), alert["alert"]
        assert re.search(rf"alertname: {alert['alert']}\n +exp_alerts", tested), alert["alert"]


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.uid)
def test_a_dashboard_is_what_its_code_makes_and_names_series_that_exist(board: Board) -> None:
    """After a wanted change: python -m manifests.monitoring.source write."""
    text = (MONITORING / "dashboards" / f"{board.uid}.json").read_text()
    assert text == render(board)
    assert known(set(_NAME.findall(text)) - {"pelican_dashboards"}) <= ALL
    panels = [panel for panel in json.loads(text)["panels"] if panel["type"] != "row"]
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}
    assert len(places) == len(panels) == sum(map(len, board.rows.values()))


def test_every_series_is_on_a_dashboard() -> None:
    shown = {name for board in BOARDS for name in _NAME.findall(render(board))}
    # How many jobs failed and why is an alert's; a run's failures are in `pelican show`.
    assert ALL - known(shown) == {"pelican_job_failed"}


def test_prometheus_accepts_the_local_configuration(tmp_path: Path) -> None:
    config = write_configuration(tmp_path, "127.0.0.1:1", "127.0.0.1:2")
    command = [program("promtool"), "check", "config", str(config)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def built(tmp_path: Path) -> list[dict[str, Any]]:
    """The base with the monitoring component, as kubectl renders it."""
    base, component = (Path("..", home(), "manifests", name) for name in ("base", "monitoring"))
    up = "../" * len(tmp_path.parts[1:])
    text = f"resources: [{up}{base.relative_to('/')}]\ncomponents: [{up}{component.relative_to('/')}]\n"
    (tmp_path / "kustomization.yaml").write_text(text + "namespace: pelican\n")
    done = subprocess.run(
        [program("kubectl"), "kustomize", str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def test_the_component_joins_the_base(tmp_path: Path) -> None:
    found = {(tree["kind"], tree["metadata"]["name"]): tree for tree in built(tmp_path)}
    assert ("PrometheusRule", "pelican") in found and ("PodMonitor", "pelican") in found
    boards = found["ConfigMap", "pelican-dashboards"]
    assert boards["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert set(boards["data"]) == {f"{board.uid}.json" for board in BOARDS}
    # What is scraped of the trigger is a port that its pods have.
    of_trigger = found["PodMonitor", "pelican-trigger"]["spec"]
    deployment = yaml.safe_load((home() / "manifests/trigger/deployment.yaml").read_text())
    pod = deployment["spec"]["template"]
    assert of_trigger["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    ports = {port["name"] for port in pod["spec"]["containers"][0]["ports"]}
    assert {endpoint["port"] for endpoint in of_trigger["podMetricsEndpoints"]} <= ports
    monitor = found["ServiceMonitor", "pelican-pushgateway"]["spec"]
    assert monitor["endpoints"][0]["honorLabels"] is True
    service = found["Service", "pelican-pushgateway"]
    assert monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()


def test_the_command_line_imports_no_prometheus() -> None:
    code = "import sys, pelican.cli.main, pelican.config.recipe; print('prometheus_client' in sys.modules)"
    python = importlib.import_module("sys").executable
    done = subprocess.run([python, "-c", code], cwd=home(), capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr
