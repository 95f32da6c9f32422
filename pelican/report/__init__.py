"""What a person sees of a run: the HTML page, and runs side by side. Imports no torch."""

from pelican.report.comparison import compare_runs
from pelican.report.page import build_report

__all__ = ["build_report", "compare_runs"]
