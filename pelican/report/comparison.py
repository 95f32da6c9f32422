"""What phases gained together, what a run cost, and runs side by side. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict

from pelican.evaluation.metrics import Difference, total_difference
from pelican.evaluation.summary import compare
from pelican.report.cost import seconds, tokens
from pelican.report.run import RESAMPLES, Evaluation, Run, open_run
from pelican.storage.objects import ObjectStore


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


class RunRow(BaseModel):
    """One run of a comparison; `against_first` is paired with the first run's final evaluation."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    run: str
    recipe: str
    loops: int
    base: float | None
    final: float | None
    final_ci: tuple[float, float] | None
    gain: Difference | None
    general: float | None
    general_gain: Difference | None
    against_first: Difference | None
    general_against_first: Difference | None
    families: dict[str, float]
    generated_tokens: int
    trained_tokens: int
    seconds: float


class RunTable(BaseModel):
    """Runs side by side, and the fields of their recipes that differ (dotted path: run: value)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rows: list[RunRow]
    recipe_differences: dict[str, dict[str, Any]]


def compare_runs(store: ObjectStore, runs: Sequence[str]) -> RunTable:
    """Final scores, paired with the first run on the same held-out questions; cost; recipes."""
    opened = [open_run(store, name) for name in runs]
    first = opened[0].final if opened else None
    return RunTable(
        rows=[_row(run, first) for run in opened],
        recipe_differences=recipe_differences({run.name: run.recipe for run in opened}),
    )


def _row(run: Run, first: Evaluation | None) -> RunRow:
    base, final = run.base, run.final
    embodied = final.summary.embodied if final else None
    general = final.summary.general if final else None
    change = run.compared(base, final) if base and final else None
    against = (
        compare(first.results, final.results, resamples=RESAMPLES, seed=run.seed)
        if first and final and first.path != final.path
        else None
    )
    return RunRow(
        run=run.name,
        recipe=str(run.recipe.get("name", "")),
        loops=max((e.loop for e in run.evaluations), default=0),
        base=base.summary.embodied.score if base and base.summary.embodied else None,
        final=embodied.score if embodied else None,
        final_ci=(embodied.low, embodied.high) if embodied else None,
        gain=change.embodied if change else None,
        general=general.score if general else None,
        general_gain=change.general if change else None,
        against_first=against.embodied if against else None,
        general_against_first=against.general if against else None,
        families={k: v.score for k, v in final.summary.families.items()} if final else {},
        generated_tokens=tokens(run, "generated"),
        trained_tokens=tokens(run, "trained"),
        seconds=seconds(run),
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
