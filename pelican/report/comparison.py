"""Runs side by side: scores, paired differences, cost, recipes. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from pelican.evaluation.metrics import Difference, Estimate, total_difference
from pelican.evaluation.summary import compare
from pelican.frozen import Frozen
from pelican.report.cost import Cost, cost_of
from pelican.report.labels import labelled, open_address
from pelican.report.run import RESAMPLES, Evaluation, Run, kind_of
from pelican.storage.objects import ObjectStore

MOST_PAIRED = 8  # runs of which every pair is compared; of more each with the first


def phase_totals(run: Run) -> dict[str, Difference]:
    """What all phases of one kind (`rl`, `sft`) gained together on the embodied score."""
    totals = {}
    for phase in ("rl", "sft"):
        steps = [
            (
                before.results.filter(suite="embodied"),
                after.results.filter(suite="embodied"),
            )
            for before, after in run.steps()
            if after.phase == phase
        ]
        total = total_difference(steps, "family", resamples=RESAMPLES, seed=run.seed)
        if total is not None:
            totals[phase] = total
    return totals


class RunRow(Frozen):
    """One run of a comparison; `against_first` is paired with the first run's final evaluation."""

    run: str
    kind: str
    pipeline: str
    recipe: str
    seed: int
    loops: int
    base: float | None
    final: float | None
    final_ci: tuple[float, float] | None
    gain: Difference | None
    general: float | None
    general_gain: Difference | None
    lost: int
    gained: int
    questions: int
    against_first: Difference | None
    general_against_first: Difference | None
    families: dict[str, Estimate]
    dimensions: dict[str, Estimate]
    cost: Cost


class Pair(Frozen):
    """`second` minus `first`, on the questions that the final policies of both answered."""

    first: str
    second: str
    embodied: Difference | None
    general: Difference | None


class RunTable(Frozen):
    """Runs side by side, and the fields of their recipes that differ (dotted path: run: value)."""

    rows: list[RunRow]
    pairs: list[Pair]
    recipe_differences: dict[str, dict[str, Any]]


def open_runs(store: ObjectStore, addresses: Sequence[str]) -> dict[str, Run]:
    """The runs by their labels, each once. Raises UserInputError for one that is not there."""
    return labelled([open_address(address, store) for address in addresses])


def compare_runs(runs: Mapping[str, Run]) -> RunTable:
    """Final scores, paired on the same held-out questions; cost; recipes. `runs`: label -> run."""
    labels = list(runs)
    wanted = (
        list(combinations(labels, 2))
        if len(labels) <= MOST_PAIRED
        else [(labels[0], other) for other in labels[1:]]
    )
    pairs = {(a, b): pair_of(a, b, runs) for a, b in wanted}
    return RunTable(
        rows=[row_of(label, run, pairs.get((labels[0], label))) for label, run in runs.items()],
        pairs=list(pairs.values()),
        recipe_differences=recipe_differences({label: run.recipe for label, run in runs.items()}),
    )


def pair_of(first: str, second: str, runs: Mapping[str, Run]) -> Pair:
    """Two of `runs` compared. The seed is the first run's of the whole comparison, so that all pairs draw alike."""
    before, after = runs[first].final, runs[second].final
    seed = next(iter(runs.values())).seed
    found = (
        compare(before.results, after.results, resamples=RESAMPLES, seed=seed)
        if before is not None and after is not None
        else None
    )
    return Pair(
        first=first,
        second=second,
        embodied=found.embodied if found else None,
        general=found.general if found else None,
    )


def row_of(label: str, run: Run, against: Pair | None) -> RunRow:
    """One run; `against`: its comparison with the first run, if it is another."""
    base, final = run.base, run.final
    shown: Evaluation | None = final or base
    embodied = final.summary.embodied if final else None
    general = final.summary.general if final else None
    change = run.compared(base, final) if base and final else None
    flips = (change.embodied_flips, change.general_flips) if change else ()
    return RunRow(
        run=label,
        kind=kind_of(run),
        pipeline=run.pipeline,
        recipe=str(run.recipe.get("name", "")),
        seed=run.seed,
        loops=max((e.loop for e in run.evaluations), default=0),
        base=base.summary.embodied.score if base and base.summary.embodied else None,
        final=embodied.score if embodied else None,
        final_ci=(embodied.low, embodied.high) if embodied else None,
        gain=change.embodied if change else None,
        general=general.score if general else None,
        general_gain=change.general if change else None,
        lost=sum(f.lost for f in flips),
        gained=sum(f.gained for f in flips),
        questions=len(shown.results) if shown else 0,
        against_first=against.embodied if against else None,
        general_against_first=against.general if against else None,
        families=final.summary.families if final else {},
        dimensions=final.summary.dimensions if final else {},
        cost=cost_of(run),
    )


def recipe_differences(recipes: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The fields, by dotted path, whose values are not the same in all recipes."""
    flat = {name: _flatten(recipe) for name, recipe in recipes.items()}
    paths = sorted({path for fields in flat.values() for path in fields})
    table = {path: {name: fields.get(path) for name, fields in flat.items()} for path in paths}
    return {
        path: values
        for path, values in table.items()
        if any(value != next(iter(values.values())) for value in values.values())
    }


def _flatten(value: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {path: value}
    found: dict[str, Any] = {}
    for name, inner in value.items():
        found |= _flatten(inner, f"{path}.{name}" if path else str(name))
    return found
