"""Grafana dashboards as code: `python -m manifests.monitoring.source write` makes the JSON in manifests."""

from manifests.monitoring.source.plots import Board, Plot
from manifests.monitoring.source.results import RESULTS
from manifests.monitoring.source.training import TRAINING

BOARDS = (TRAINING, RESULTS)

__all__ = ["BOARDS", "Board", "Plot"]
