"""What a person sees of a run: its report, its ledger, and runs side by side. Imports no torch."""

from pelican.report.page import build_report

__all__ = ["build_report"]
