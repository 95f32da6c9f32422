"""The report of one run: its head and its sections as one HTML page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from pelican.evaluation.metrics import Comparison
from pelican.report import tables
from pelican.report.compare import phase_totals
from pelican.report.history import MEANINGS, OUTCOMES
from pelican.report.ledger import build_ledger, view_forgotten, view_ledger
from pelican.report.pages import keep_page, render_page
from pelican.report.run import Evaluation, Run, cost_of, kind_of, label_runs, open_run
from pelican.report.sections import (
    capability_figures,
    contrast_figures,
    cost_figures,
    practice_figures,
    rl_figures,
    score_figures,
    sft_figures,
    trajectory_figures,
)
from pelican.report.weaknesses import Found, find_weaknesses, match_new
from pelican.report.weaknesses_page import build_weaknesses
from pelican.report.words import first_upper, interval, signed
from pelican.retrain.records import VERDICT, Verdict
from pelican.runs.findings import Finding
from pelican.runs.layout import read_failure
from pelican.runs.outcome import offer_words, read_findings
from pelican.storage.reading import OnDamage, tell
from pelican.storage.store import ObjectStore

# The head of a report: how far the run came, what came of it, and its first numbers.


def state_of(run: Run) -> dict[str, str]:
    """How far the run came, in one word and a sentence."""
    ended = run.record(f"{run.prefix}/{VERDICT}", Verdict)  # a retraining may end before its loops
    if ended is not None:
        reasons = "; ".join(ended.reasons)
        return {"word": "finished", "words": f"The retraining ended: {ended.outcome}. {reasons}"}
    open_stages = [stage for stage in run.stages if stage.manifest is None]
    last = run.evaluations[-1] if run.evaluations else None
    looked = run.sealed is not None or not run.has_dev
    refused = _refused(run)
    if last and not open_stages and looked and _is_last(run, last):
        return {"word": "finished", "words": refused}
    decided = last is not None and last.phase == run.last_phase and not open_stages
    if last and decided and looked and refused:
        return {"word": "stopped", "words": refused}
    failure = read_failure(run.store, run.name, run.note)
    if failure is not None:
        where = f"{failure.stage}, loop {failure.loop}"
        return {"word": "failed", "words": f"{where}: {failure.message}"}
    if open_stages:
        where = f"{open_stages[-1].name} of loop {open_stages[-1].loop}"
        return {"word": "unfinished", "words": f"The last stage without a result is {where}."}
    return {"word": "unfinished", "words": "More stages are to come."}


def _refused(run: Run) -> str:
    """What the gate refused, and what the run offers in its place; empty if nothing was refused."""
    words = offer_words(run.offer)
    return f"{first_upper(words)}." if words else ""


def _is_last(run: Run, evaluation: Evaluation) -> bool:
    """Whether the pipeline of this run ends with this evaluation."""
    if run.pipeline == "evaluate":
        return True
    loops = int(run.recipe.get("loops", 0))
    return evaluation.loop == loops > 0 and evaluation.phase == run.last_phase


def verdict(run: Run, change: Comparison | None) -> str:
    """What came of the run, in two sentences at most."""
    base, final = run.base, run.final
    if base is None or base.summary.embodied is None:
        return "Nothing has been evaluated yet."
    start = base.summary.embodied
    if final is None or final.summary.embodied is None or change is None or not change.embodied:
        why = "No phase has been evaluated yet" if final is None else "No policy passed its gate"
        return (
            f"The base scores {start.score:.1f} on the held-out robot questions, chance is"
            f" {start.chance:.1f}. {why}."
        )
    end, moved = final.summary.embodied, change.embodied
    if moved.better or moved.worse:
        how = "rose" if moved.better else "fell"
    else:
        how = "went, within noise,"
    where = "On the sealed set, which no gate read, from" if run.sealed else "From"
    words = (
        f"{where} the base to {final.label} the embodied score {how} from {start.score:.1f} to"
        f" {end.score:.1f}, {signed(moved.delta)} points (paired 95 % interval {interval(moved)};"
        f" chance is {end.chance:.1f})."
    )
    general = change.general
    if general is not None:
        noise = "" if general.better or general.worse else ", within noise"
        words += (
            f" The general suite moved by {signed(general.delta)} ({interval(general)}{noise})."
        )
    return words


def tiles(run: Run, change: Comparison | None) -> list[dict[str, str]]:
    base, final = run.base, run.final
    if base is None or base.summary.embodied is None:
        return []
    shown = (final or base).summary
    tiles = [
        {
            "name": "embodied score",
            "value": f"{shown.embodied.score:.1f}" if shown.embodied else "–",
            "note": f"base {base.summary.embodied.score:.1f}, chance "
            f"{base.summary.embodied.chance:.1f}",
        }
    ]
    if change and change.embodied:
        moved = change.embodied
        tiles.append(
            {
                "name": "gain over the base",
                "value": signed(moved.delta),
                "note": f"95 % {interval(moved)}",
                "mood": "good" if moved.better else "bad" if moved.worse else "",
            }
        )
    if shown.general:
        tile = {
            "name": "general suite",
            "value": f"{shown.general.score:.1f}",
            "note": f"chance {shown.general.chance:.1f}",
        }
        if change and change.general:
            tile["note"] = f"{signed(change.general.delta)} ({interval(change.general)})"
            tile["mood"] = "bad" if change.general.worse else ""
        tiles.append(tile)
    tiles.append(
        {
            "name": "format rate",
            "value": f"{100 * shown.format_rate:.0f} %",
            "note": f"{shown.mean_tokens:.0f} tokens an answer",
        }
    )
    return [{"mood": ""} | tile for tile in tiles]


def _findings(run: Run) -> list[Finding]:
    """What the run's records say is wrong."""
    found = [stage.manifest for stage in run.stages if stage.manifest]
    threshold = run.recipe.get("rl", {}).get("stop", {}).get("threshold")
    return read_findings(run.store, found, threshold, run.note)


# `report.html`: one self-contained page of a run, whether it finished, still runs or failed.

REPORT = "report.html"
MOST_UNSOLVED = 8  # groups of what is unsolved; the page beside it has more


def build_report(
    store: ObjectStore, run: str, against: Sequence[Run] = (), on_damage: OnDamage = tell
) -> Path:
    """Write `runs/<run>/report.html`, `ledger.html` and `weaknesses.html`; the first one's path.

    What is damaged is left out, and the page says so.

    Args:
        store: where the run lies.
        run: its name.
        against: runs to be compared with in gain and forgetting, such as RL alone and SFT alone.
        on_damage: called with what is damaged.
    """
    opened = open_run(store, run)
    ledger = build_ledger(opened)
    unsolved = find_weaknesses(opened)
    build_weaknesses(opened, unsolved)
    html = render(opened, against, ledger=ledger, unsolved=unsolved)
    key = f"runs/{run}/{REPORT}"
    for error in (error for one in (opened, *against) for error in one.damaged):
        on_damage(error)
    return keep_page(store, key, html)


def render(
    run: Run,
    against: Sequence[Run] = (),
    *,
    ledger: bool = False,
    unsolved: Found | None = None,
) -> str:
    """The page as text.

    Args:
        run: What is shown.
        against: Runs that it is compared with.
        ledger: There is a page of the whole ledger beside it.
        unsolved: What to record next, if there is a page of that beside it.
    """
    base, final = run.base, run.final
    change = run.change
    return render_page(
        "report.html.j2",
        run=run,
        state=state_of(run),
        verdict=verdict(run, change),
        tiles=tiles(run, change),
        change=change,
        phases=tables.phases(run),
        totals=phase_totals(run),
        groups=tables.groups(base, final, change),
        scores=score_figures(run),
        contrast=contrast_figures(label_runs([run, *against])) if against else [],
        others=[(other, kind_of(other)) for other in against],
        capabilities=capability_figures(base, final),
        practice=practice_figures(run),
        trajectories=trajectory_figures(run),
        rl=rl_figures(run),
        rl_endings=run.rl_endings,
        sft=sft_figures(run),
        acceptance=tables.acceptance(run),
        forgotten=view_forgotten(run),
        ledger=view_ledger(run),
        ledger_page=ledger,
        findings=_findings(run),
        unsolved=unsolved.summary if unsolved else None,
        most_unsolved=MOST_UNSOLVED,
        matched=match_new(run),
        outcomes=OUTCOMES,
        meanings=MEANINGS,
        durations=cost_figures(run),
        stages=run.stages,
        gates=tables.gates(run),
        quarantine=tables.quarantine(run),
        recipe=json.dumps(run.recipe, indent=1) if run.recipe else "",
        cost=cost_of(run),
    )
