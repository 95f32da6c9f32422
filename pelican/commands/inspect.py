"""`pelican runs`, `show`, `recipe`: what lies in the store, as text or JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from pelican import settings
from pelican.commands.tables import rows_table, score_table
from pelican.outcome import scores, show
from pelican.recipes import ABLATIONS, ABLATIONS_OF_A_NUMBER, BASES, PIPELINES, find_recipe
from pelican.recipes.overrides import describe, fields
from pelican.runs import list_runs, manifests, state
from pelican.storage.objects import open_store
from pelican.telemetry.progress import duration, where


def print_runs(uri: str | None) -> None:
    store = open_store(settings.store_uri(uri))
    found = list_runs(store)
    if not found:
        print(f"no runs in {store.uri}; `make submit PIPELINE=metaloop` starts one")
        return
    rows = []
    for run in found:
        done = manifests(store, run.run)
        entries = scores(store, run.run)
        first, last = (entries[0], entries[-1]) if entries else ({}, {})
        rows.append(
            [
                run.run,
                run.pipeline,
                state(store, run.run),
                f"{run.submitted.astimezone():%Y-%m-%d %H:%M}",
                duration(sum(m.seconds for m in done)),
                _arrow(first.get("embodied"), last.get("embodied")),
                _arrow(first.get("general"), last.get("general")),
            ]
        )
    rows_table(["run", "pipeline", "state", "submitted", "stages", "embodied", "general"], rows)


def _arrow(first: float | None, last: float | None) -> str:
    if first is None or last is None:
        return "-"
    return f"{first:.1f} -> {last:.1f}"


def print_run(run: str, as_json: bool, uri: str | None) -> None:
    store = open_store(settings.store_uri(uri))
    tree = show(store, run)
    if as_json:
        print(json.dumps(tree, indent=1, allow_nan=False))
        return
    print(f"run     {run}, {tree['state']}, pipeline {tree['pipeline']}, recipe {tree['recipe']}")
    if tree["scores"]:
        score_table(tree)
    for entry in tree["scores"]:
        if not entry.get("go_on", True):
            print(f"stopped after {where(entry)}: {'; '.join(entry['reasons'])}")
    print("ledger")
    for row in tree["counts"]:
        numbers = ", ".join(f"{k} {v}" for k, v in row.items() if k not in ("loop", "phase"))
        print(f"  {where(row):<10} {numbers}")
    print("durations")
    for row in tree["durations"]:
        print(f"  {where(row):<10} {row['stage']:<10} {duration(row['seconds']):>12}")
    if tree["failure"]:
        print(f"failed  {tree['failure']['stage']}: {tree['failure']['message']}")
    print(f"policy  {tree['policy'] or '-'}")
    print(f"report  {tree['report'] or 'not written'}")


def print_recipes() -> None:
    def about(function: Any) -> str:
        return str(function.__doc__).strip().splitlines()[0]

    rows = [["recipe", name, about(function)] for name, function in BASES.items()]
    rows += [["ablation", f"+{name}", about(function)] for name, function in ABLATIONS.items()]
    rows += [
        ["ablation", f"+{name}(x)", about(function)]
        for name, function in ABLATIONS_OF_A_NUMBER.items()
    ]
    rows += [["pipeline", name, ""] for name in PIPELINES]
    rows_table(["", "name", ""], rows)


def print_recipe(name: str, overrides: Sequence[str], as_json: bool) -> None:
    recipe = find_recipe(name, overrides)
    if as_json:
        print(recipe.model_dump_json(indent=1))
        return
    for field, value in fields(recipe).items():
        if value is None and field.startswith("resources.") and "resources.every." not in field:
            continue  # two hundred lines: what a stage does not set is as `resources.every` says
        about = describe(field)
        print(f"{field:<26} {text(value):<26} {about}".rstrip())
    print(f"{'(digest)':<26} {recipe.digest()}")


def text(value: object) -> str:
    if isinstance(value, tuple | list):
        return ",".join(text(item) for item in value)
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)
