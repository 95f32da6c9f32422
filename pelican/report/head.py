"""The head of a report: how far the run came, what came of it, and its first numbers."""

from __future__ import annotations

from pelican.evaluation.summary import Comparison
from pelican.report.run import Evaluation, Run
from pelican.report.tables import gates
from pelican.report.words import interval, signed
from pelican.retrain.records import VERDICT
from pelican.runs import FAILURE


def state_of(run: Run) -> dict[str, str]:
    """How far the run came, in one word and a sentence."""
    ended = run.json(VERDICT)  # of a retraining, which may end before its loops
    if isinstance(ended, dict):
        reasons = "; ".join(str(reason) for reason in ended.get("reasons", []))
        return {"word": "finished", "words": f"The retraining ended: {ended['outcome']}. {reasons}"}
    open_stages = [stage for stage in run.stages if stage.manifest is None]
    last = run.evaluations[-1] if run.evaluations else None
    if last and not open_stages and _is_last(run, last):
        return {"word": "finished", "words": ""}
    decided = last is not None and last.phase == run.last_phase and not open_stages
    if last and decided and any(not entry["gate"]["go_on"] for entry in gates(run)[-1:]):
        return {"word": "stopped", "words": f"The gate of {last.label} said no."}
    failure = run.json(FAILURE)
    if isinstance(failure, dict):
        where = f"{failure.get('stage', 'a stage')}, loop {failure.get('loop', '?')}"
        return {"word": "failed", "words": f"{where}: {failure.get('message', 'see the log')}"}
    if open_stages:
        where = f"{open_stages[-1].name} of loop {open_stages[-1].loop}"
        return {"word": "unfinished", "words": f"The last stage without a result is {where}."}
    return {"word": "unfinished", "words": "More stages are to come."}


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
        return (
            f"The base scores {start.score:.1f} on the held-out robot questions, chance is"
            f" {start.chance:.1f}. No phase has been evaluated yet."
        )
    end, moved = final.summary.embodied, change.embodied
    if moved.better or moved.worse:
        how = "rose" if moved.better else "fell"
    else:
        how = "went, within noise,"
    words = (
        f"From the base to {final.label} the embodied score {how} from {start.score:.1f} to"
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
