"""The scores of a run as plain data, and runs side by side. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from pelican.evaluation.metrics import Difference, Estimate, total_difference
from pelican.evaluation.summary import compare
from pelican.report.run import RESAMPLES, Evaluation, Run, open_run
from pelican.storage.objects import ObjectStore


def scores(store: ObjectStore, run: str) -> list[dict[str, Any]]:
    """One dictionary for every evaluation of a run, base first; scores in points of 100.

    `gain` is the paired difference from the evaluation before, `since_base` that from the base,
    each {delta, low, high, n} for `embodied` and `general`.
    """
    return run_scores(open_run(store, run))


def run_scores(run: Run) -> list[dict[str, Any]]:
    """`scores` of an opened run."""
    rows: list[dict[str, Any]] = []
    before: Evaluation | None = None
    for evaluation in run.evaluations:
        rows.append(
            _scores_of(evaluation)
            | {
                "gain": _change(run, before, evaluation),
                "since_base": _change(run, run.base, evaluation),
            }
        )
        before = evaluation
    return rows


def _scores_of(evaluation: Evaluation) -> dict[str, Any]:
    summary = evaluation.summary
    row: dict[str, Any] = {"loop": evaluation.loop, "phase": evaluation.phase}
    for name, number in (("embodied", summary.embodied), ("general", summary.general)):
        row[name] = number and number.score
        row[f"{name}_ci"] = number and [number.low, number.high]
        row[f"{name}_chance"] = number and number.chance
        row[f"{name}_n"] = number.n if number else 0
    row["chance"] = row["embodied_chance"]
    row |= _flat("families", summary.families) | _flat("dimensions", summary.dimensions)
    row["format_rate"] = summary.format_rate
    row["mean_tokens"] = summary.mean_tokens
    return row


def _flat(name: str, groups: dict[str, Estimate]) -> dict[str, Any]:
    return {
        name: {key: number.score for key, number in groups.items()},
        f"{name}_ci": {key: [number.low, number.high] for key, number in groups.items()},
        f"{name}_chance": {key: number.chance for key, number in groups.items()},
    }


def _change(run: Run, before: Evaluation | None, after: Evaluation) -> dict[str, Any] | None:
    if before is None or before is after:
        return None
    change = run.compared(before, after)
    return {
        "embodied": change.embodied and change.embodied.model_dump(),
        "general": change.general and change.general.model_dump(),
    }


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


def tokens(run: Run, kind: Literal["generated", "trained"]) -> int:
    """Tokens of all stages but eval: `<kind>_tokens` of their counts, else `tokens` of the stage."""
    total = 0
    for stage in run.stages:
        if stage.manifest is None or stage.name == "eval":
            continue
        counts = stage.manifest.counts
        own = "trained" if stage.name.startswith("train") else "generated"
        total += counts.get(f"{kind}_tokens", counts.get("tokens", 0) if kind == own else 0)
    return total


def seconds(run: Run) -> float:
    """Time spent in all finished stages."""
    return sum(stage.manifest.seconds for stage in run.stages if stage.manifest)


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
