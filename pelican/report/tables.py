"""The tables of a report: phases, groups, the teacher's acceptance, the gate, quarantine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pelican.data.tables import CODES
from pelican.evaluation.gate import Gate
from pelican.evaluation.metrics import Comparison, Difference, Estimate
from pelican.report import words
from pelican.report.run import Evaluation, Run
from pelican.runs.layout import PREFLIGHT
from pelican.runs.records import Checks


def phases(run: Run) -> list[dict[str, Any]]:
    return [
        {"evaluation": after, "change": run.compare_evaluations(before, after)}
        for before, after in run.steps()
    ]


def groups(
    base: Evaluation | None, final: Evaluation | None, change: Comparison | None
) -> list[dict[str, Any]]:
    """Rows of the tables by family, dimension and so on: name, base, final and difference."""
    shown = final or base
    if shown is None:
        return []
    tables: list[tuple[str, str, Callable[[str], str]]] = [
        ("families", "Family", words.family),
        ("dimensions", "Dimension", words.dimension),
        ("horizons", "Horizon", words.horizon),
        ("benchmarks", "Benchmark", str),
    ]
    found = []
    for field, title, words_of in tables:
        now: dict[str, Estimate] = getattr(shown.summary, field)
        start: dict[str, Estimate] = getattr(base.summary, field) if base and final else {}
        moved: dict[str, Difference] = getattr(change, field, {}) if change else {}
        rows = [
            {"name": words_of(n), "base": start.get(n), "final": e, "change": moved.get(n)}
            for n, e in sort_groups(now)
        ]
        found.append({"title": title, "rows": rows})
    return found


def sort_groups(groups: dict[str, Estimate]) -> list[tuple[str, Estimate]]:
    return sorted(groups.items(), key=lambda item: words.place(item[0]))


def acceptance(run: Run) -> list[dict[str, Any]]:
    """How many of the weak samples the teacher could answer, by family and loop.

    The related and the general ones that it answered too are easier, and say nothing of the weak.
    """
    counts: dict[str, dict[int, list[int]]] = {}
    columns = ["origin", "family", "accepted"]
    for stage, frame in run.tables("distill", "teacher.parquet", columns).items():
        for name, accepted in frame.filter(origin="weak").select(columns[1:]).iter_rows():
            cell = counts.setdefault(name, {}).setdefault(stage.loop, [0, 0])
            cell[0] += bool(accepted)
            cell[1] += 1
    rows = [{"family": name, "loops": counts[name]} for name in sorted(counts, key=words.place)]
    if len(rows) > 1:
        whole: dict[int, list[int]] = {}
        for loops in counts.values():
            for loop, (good, of) in loops.items():
                cell = whole.setdefault(loop, [0, 0])
                cell[0] += good
                cell[1] += of
        rows.append({"family": "all", "loops": whole})
    return rows


def gates(run: Run) -> list[dict[str, Any]]:
    """The decisions at the end of each loop."""
    found = []
    for evaluation in run.evaluations:
        if evaluation.phase != run.last_phase:
            continue
        gate = run.record(f"{evaluation.prefix}/gate.json", Gate)
        if gate is not None:
            found.append({"label": evaluation.label, "gate": gate.model_dump()})
    return found


def quarantine(run: Run) -> list[dict[str, Any]]:
    """Per pool with rows that preflight left out: how many for which reason, and the first."""
    found = run.record(f"{run.prefix}/{PREFLIGHT}", Checks)
    pools = found.root if found else {}
    return [
        {
            "pool": name,
            "samples": pool.samples,
            "reasons": [(CODES.get(code, code), n) for code, n in pool.quarantined.items()],
            "total": sum(pool.quarantined.values()),
            "rows": pool.quarantine,
        }
        for name, pool in pools.items()
        if pool.quarantined
    ]
