"""The tables of a set of runs, in Markdown: a row per variant, then a row per run."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from pelican.evaluation.metrics import Difference
from pelican.experiments.found import FIRST, Found, find
from pelican.experiments.variants import ABLATIONS
from pelican.storage.objects import ObjectStore

NOTHING = "No run of the set is complete."
_VARIANTS = [
    "variant",
    "runs",
    "after RL",
    "final",
    "gain",
    f"against {FIRST}",
    "general",
    "thinking, base",
]
_VARIANTS += ["end", "RL steps", "k tokens generated", "trained", "compute"]
_RUNS = ["run", "base", "final", "gain (95 %)", f"against {FIRST} (95 %)", "general (95 %)"]
_RUNS += ["loops", "min", "finished, code", "command"]


def table(store: ObjectStore, tag: str) -> list[str]:
    """Lines of both tables: of every complete run of the set, whoever asked for it and when.

    Runs of one variant with different settings have a row each. Scores are points of 100, thinking
    is characters an embodied answer, ± is the standard deviation over seeds.
    """
    found, others = find(store, tag)
    if not found:
        return [NOTHING]
    groups: dict[tuple[str, str], list[Found]] = {}
    for run in found:
        groups.setdefault((run.label, run.settings), []).append(run)
    several = {label for label, _ in groups if sum(label == other for other, _ in groups) > 1}
    dppo = {run.seed: run.compute for run in found if run.label == FIRST}
    lines = _head(_VARIANTS)
    lines += [_summary(runs, dppo, runs[0].label in several) for runs in groups.values()]
    lines += ["", *_notes(found, others), "", *_head(_RUNS)]
    return lines + [_detail(run) for run in found]


def _notes(found: Sequence[Found], others: Sequence[str]) -> list[str]:
    notes = [
        f"Compute is against {FIRST} of the same seeds; a trained token counts as three generated"
        " ones. ± is over seeds, which all answer the same questions: what their choice adds is in"
        " the intervals, which are paired."
    ]
    codes = sorted({run.code for run in found})
    if len(codes) > 1:
        notes.append(f"The runs are of different sources (digests {'; '.join(codes)}).")
    if others:
        notes.append(f"Not complete, so not here: {', '.join(others)}.")
    return notes


def _summary(runs: Sequence[Found], dppo: dict[int, int], ambiguous: bool) -> str:
    name = f"{runs[0].label}: {ABLATIONS[runs[0].label].meaning}"
    if ambiguous:
        name += f" (`{runs[0].overrides or 'as it is'}`)"
    stopped = sum(run.stopped for run in runs)
    compute = [run.compute / dppo[run.seed] for run in runs if run.seed in dppo]
    return _line(
        [
            name + (f"; {stopped} stopped by the gate" if stopped else ""),
            str(len(runs)),
            _mean([run.after_rl for run in runs]),
            _mean([run.row.final for run in runs]),
            _mean([_delta(run.row.gain) for run in runs], "+"),
            _mean([_delta(run.row.against_first) for run in runs], "+"),
            _mean([_delta(run.row.general_gain) for run in runs], "+"),
            _mean([run.thinking[0] for run in runs], digits=0),
            _mean([run.thinking[1] for run in runs], digits=0),
            _mean([run.rl_steps for run in runs], digits=0),
            _mean([run.row.cost.generated_tokens / 1000 for run in runs], digits=0),
            _mean([run.row.cost.trained_tokens / 1000 for run in runs], digits=0),
            _mean(compute, digits=2),
        ]
    )


def _detail(run: Found) -> str:
    return _line(
        [
            run.name,
            _mean([run.row.base]),
            _mean([run.row.final]),
            _interval(run.row.gain),
            _interval(run.row.against_first),
            _interval(run.row.general_gain),
            f"{run.row.loops}{', then stopped by the gate' if run.stopped else ''}",
            f"{run.row.cost.seconds / 60:.0f}",
            f"{run.finished:%Y-%m-%d}, {run.code}",
            f"`{run.command}`",
        ]
    )


def _head(names: Sequence[str]) -> list[str]:
    return [_line(names), _line(["---"] * len(names))]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _delta(difference: Difference | None) -> float | None:
    return difference.delta if difference else None


def _mean(values: Sequence[float | None], sign: str = "", digits: int = 1) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    text = f"{statistics.fmean(known):{sign}.{digits}f}"
    return f"{text} ± {statistics.stdev(known):.{digits}f}" if len(known) > 1 else text


def _interval(difference: Difference | None) -> str:
    if difference is None:
        return "-"
    return f"{difference.delta:+.1f} ({difference.low:+.1f} to {difference.high:+.1f})"
