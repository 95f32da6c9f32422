"""Grafana dashboards as code: `python -m pelican.dashboards write` makes the JSON in manifests."""

from pelican.dashboards.plots import Board, Plot
from pelican.dashboards.results import RESULTS
from pelican.dashboards.training import TRAINING

BOARDS = (TRAINING, RESULTS)

__all__ = ["BOARDS", "Board", "Plot"]
