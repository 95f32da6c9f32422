"""How a run ended, for who submitted it: its scores, or its failure."""

from __future__ import annotations

from collections.abc import Mapping

from pelican.errors import PelicanError
from pelican.launch.base import error_of
from pelican.outcome import show
from pelican.runs import read_json, run_prefix
from pelican.stages.spec import STAGES
from pelican.storage.objects import ObjectStore


def state_after(store: ObjectStore, run: str) -> str:
    """What the summary says; while we hold the run's lock, `state` says running."""
    summary = read_json(store, f"{run_prefix(run)}/summary.json") or {}
    return str(summary.get("state", "unfinished"))


def error_told(failure: Mapping[str, object]) -> PelicanError:
    """A step's failure, as the step wrote it down, to who submitted the run: the same exit status."""
    where = f"{failure['stage']}, loop {failure['loop']} {failure['phase']}"
    if failure["stage"] not in STAGES:  # preflight, or a step of a retraining
        where = str(failure["stage"])
    code = failure.get("exit_code")  # None: of a version that kept the name alone
    return error_of(code if isinstance(code, int) else 1, f"{where}: {failure['message']}")


def print_result(store: ObjectStore, run: str, took_s: float) -> None:
    """The table of scores, the run's name, the report's path."""
    from pelican.commands.tables import score_table
    from pelican.telemetry.progress import duration

    tree = show(store, run)
    if tree["scores"]:
        score_table(tree)
    print(f"run     {run} ({duration(took_s)})")
    print(f"report  {tree['report'] or 'not written'}", flush=True)
