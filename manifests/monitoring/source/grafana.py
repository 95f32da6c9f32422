"""Dashboards as Grafana's JSON, by Grafana's own builders (the extra `dev`)."""

from __future__ import annotations

from pathlib import Path

from grafana_foundation_sdk.builders import dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import DataSourceRef, VariableRefresh

from manifests.monitoring.source import BOARDS
from manifests.monitoring.source.plots import Board, Plot

WIDTH, HEIGHT = 8, 7  # of a panel; Grafana's grid is 24 wide
SOURCE = DataSourceRef("prometheus", "${source}")


def render(board: Board) -> str:
    """The dashboard's JSON; the data source and the namespace are chosen in Grafana."""
    made = (
        dashboard.Dashboard(board.title)
        .uid(board.uid)
        .tags(["pelican"])
        .refresh("30s")
        .time("now-3h", "now")
        .with_variable(dashboard.DatasourceVariable("source").type("prometheus"))
        .with_variable(
            _variable("namespace", "label_values(pelican_stage_duration_seconds, namespace)")
        )
        .with_variable(_variable("stage", "label_values(pelican_stage_duration_seconds, stage)"))
    )
    for title, plots in board.rows.items():
        made = made.with_row(dashboard.Row(title))
        for plot in plots:
            made = made.with_panel(_panel(plot))
    return JSONEncoder(sort_keys=True, indent=1).encode(made.build()) + "\n"


def _variable(name: str, query: str) -> dashboard.QueryVariable:
    """A variable to choose a label's value; its default `.*` also matches series without the label, as on a
    laptop."""
    return (
        dashboard.QueryVariable(name)
        .datasource(SOURCE)
        .query(query)
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .include_all(True)
        .all_value(".*")
        .multi(True)
    )


def _panel(plot: Plot) -> timeseries.Panel | stat.Panel:
    panel: timeseries.Panel | stat.Panel
    if plot.kind == "number":
        panel = stat.Panel()
    else:
        panel = timeseries.Panel().fill_opacity(8).span_nulls(False)
    panel = panel.title(plot.title).unit(plot.unit).datasource(SOURCE)
    panel = panel.height(HEIGHT).span(WIDTH)
    if plot.text:
        panel = panel.description(plot.text)
    for number, (legend, query) in enumerate(plot.queries.items()):
        target = prometheus.Dataquery().expr(query).legend_format(legend)
        panel = panel.with_target(target.ref_id(chr(ord("A") + number)).datasource(SOURCE))
    return panel


def write(folder: Path) -> list[Path]:
    """One file for each dashboard."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for board in BOARDS:
        path = folder / f"{board.uid}.json"
        path.write_text(render(board), encoding="utf-8")
        written.append(path)
    return written
