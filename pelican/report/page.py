"""`report.html`: one self-contained page of a run, whether it finished, still runs or failed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from pelican.report import head, tables
from pelican.report.comparison import phase_totals
from pelican.report.cost import cost_of
from pelican.report.history import MEANINGS, OUTCOMES
from pelican.report.labels import labelled
from pelican.report.ledger_page import build_ledger
from pelican.report.ledger_view import view_forgotten, view_ledger
from pelican.report.pages import render_page
from pelican.report.run import Run, kind_of, open_run
from pelican.report.sections.contrast import contrast_figures
from pelican.report.sections.practice import practice_figures
from pelican.report.sections.scores import capability_figures, score_figures
from pelican.report.sections.training import cost_figures, rl_figures, sft_figures
from pelican.report.sections.trajectories import trajectory_figures
from pelican.storage.objects import ObjectStore

REPORT = "report.html"


def build_report(store: ObjectStore, run: str, against: Sequence[Run] = ()) -> Path:
    """Write `runs/<run>/report.html` and `ledger.html` and return the first one's path.

    `against`: runs to be compared with in gain and forgetting, such as RL alone and SFT alone.
    """
    opened = open_run(store, run)
    ledger = build_ledger(opened)
    html = render(opened, against, ledger=ledger)
    key = f"runs/{run}/{REPORT}"
    store.write(key, html.encode())
    return store.local(key)


def render(run: Run, against: Sequence[Run] = (), *, ledger: bool = False) -> str:
    """The page as text. `ledger`: there is a page of the whole ledger beside it."""
    base, final = run.base, run.final
    change = run.compared(base, final) if base and final else None
    return render_page(
        "report.html.j2",
        run=run,
        state=head.state_of(run),
        verdict=head.verdict(run, change),
        tiles=head.tiles(run, change),
        change=change,
        phases=tables.phases(run),
        totals=phase_totals(run),
        groups=tables.groups(base, final, change),
        scores=score_figures(run),
        contrast=contrast_figures(labelled([run, *against])) if against else [],
        others=[(other, kind_of(other)) for other in against],
        capabilities=capability_figures(base, final),
        practice=practice_figures(run),
        trajectories=trajectory_figures(run),
        rl=rl_figures(run),
        sft=sft_figures(run),
        acceptance=tables.acceptance(run),
        forgotten=view_forgotten(run),
        ledger=view_ledger(run),
        ledger_page=ledger,
        outcomes=OUTCOMES,
        meanings=MEANINGS,
        durations=cost_figures(run),
        stages=run.stages,
        gates=tables.gates(run),
        quarantine=tables.quarantine(run),
        recipe=json.dumps(run.recipe, indent=1) if run.recipe else "",
        cost=cost_of(run),
    )
