"""The work of `pelican runs`, `show`, `report` and `compare`."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pelican.cli.output import check_output, rows_table, score_table, tell_damage
from pelican.cli.recipes import text
from pelican.config import env
from pelican.config.overrides import parse_overrides
from pelican.errors import DamagedError
from pelican.monitoring.progress import duration, where
from pelican.runs.layout import list_runs, manifests, read_recipe, require_run, state
from pelican.runs.outcome import closing_words, first_and_last, judged, show
from pelican.runs.restore import find_records
from pelican.storage import open_store
from pelican.storage.verify import find_damage

if TYPE_CHECKING:
    from pelican.evaluation.metrics import Difference
    from pelican.report.compare import RunRow, RunTable
    from pelican.report.run import Run
    from pelican.storage.store import ObjectStore

# `pelican runs`, `show`: what lies in the store, as text or JSON.


def print_runs(uri: str | None) -> None:
    store = open_store(env.store_uri(uri))
    damaged: list[DamagedError] = []
    found = list_runs(store, damaged.append)
    if not found and not damaged:
        print(f"no runs in {store.uri}; `make submit PIPELINE=metaloop` starts one")
        return
    rows = []
    for run in found:
        done = manifests(store, run.run, damaged.append)
        recipe = read_recipe(store, run.run, damaged.append)
        found_out = judged(store, done, recipe, damaged.append)
        first, last = first_and_last(found_out) if found_out["scores"] else ({}, {})
        rows.append(
            [
                run.run,
                run.pipeline,
                state(store, run.run, damaged.append),
                f"{run.submitted.astimezone():%Y-%m-%d %H:%M}",
                duration(sum(m.seconds for m in done)) if done else "-",
                _arrow(first.get("embodied"), last.get("embodied")),
                _arrow(first.get("general"), last.get("general")),
            ]
        )
    rows_table(
        ["run", "pipeline", "state", "submitted", "time in stages", "embodied", "general"], rows
    )
    tell_damage(damaged)


def _arrow(first: float | None, last: float | None) -> str:
    if first is None or last is None:
        return "-"
    return f"{first:.1f} -> {last:.1f}"


def print_run(run: str, as_json: bool, uri: str | None) -> None:
    store = open_store(env.store_uri(uri))
    tree = show(store, run)
    if as_json:
        print(json.dumps(tree, indent=1, allow_nan=False))
        tell_damage(tree["damaged"])
        return
    print(
        f"run     {run}, {tree['state']}, pipeline {tree['pipeline'] or '-'}, recipe {tree['recipe'] or tree['address'] or '-'}"
    )
    if tree["scores"]:
        score_table(tree)
    for entry in tree["scores"]:
        if not entry.get("go_on", True):
            how = "stopped" if entry["stopped"] else "would have stopped"
            print(f"{how} after {where(entry)}: {'; '.join(entry['reasons'])}")
    for sentence in closing_words(tree):
        print(sentence)
    _print_ledger(tree["counts"])
    _print_durations(tree["durations"])
    for finding in tree["findings"]:
        print(f"\nfinding {finding['sentence']}")
    print()
    if tree["failure"]:
        print(f"failed  {tree['failure']['stage']}: {tree['failure']['message']}")
    policy = tree["policy"] and (
        tree["policy"] if store.remote else f"{store.uri}/{tree['policy']}"
    )
    if tree["pipeline"] == "retrain":
        from pelican.cli.weaknesses import print_matched

        print_matched(store, run)
    print(f"policy  {policy or _base(tree)}")
    print(f"report  {tree['report'] or 'not written'}")
    print(f"next    {_next(tree)}")
    tell_damage(tree["damaged"])


def _base(tree: Mapping[str, Any]) -> str:
    """The policy of a run whose gate refused every loop: a checkpoint, or a retraining's parent."""
    if not tree["offer"] or not tree["base"]:
        return "-"
    of = tree["base"] if tree["pipeline"] == "retrain" else env.resolve(tree["base"])
    return f"the base, {of}"


def verify_run(run: str, uri: str | None) -> None:
    """Print how many files were compared, and every damaged one. Raises DamagedError if there is any."""
    store = open_store(env.store_uri(uri))
    require_run(store, run)
    files, damaged = find_records(store, run)
    damaged += find_damage(store, files, trust=False)
    for key in damaged:
        print(f"damaged {key}")
    size = sum(file.size for file in files.values())
    print(f"read    {len(files)} files, {size / 1e9:.2f} GB, of run {run}")
    if damaged:
        raise DamagedError(
            f"{len(damaged)} of {len(files)} files of run {run} are not what was written; the run's"
            " command restores or makes again those that a stage still needs"
        )
    print("all of them are what was written")


def _print_ledger(counts: Sequence[dict[str, Any]]) -> None:
    """Print for each filter stage how hard the samples were, and how many were taken."""
    rows = []
    for row in counts:
        if row["phase"] == "rl":
            then = f"{row.get('buffer', 0)} practised by RL"
        else:
            then = f"{row.get('weak', 0)} to the teacher"
        numbers = [
            str(row.get(name, 0)) for name in ("samples", "mastered", "practice", "intractable")
        ]
        rows.append([f"loop {row['loop']}, {_MOMENTS.get(row['phase'], '')}", *numbers, then])
    if rows:
        print("\nsamples by how many of their rollouts are right: all (mastered), some, none")
        rows_table(["ledger", "samples", "mastered", "some right", "none right", "then"], rows)


_MOMENTS = {"rl": "before RL", "sft": "after RL"}


def _print_durations(spent: Sequence[dict[str, Any]]) -> None:
    """A row a phase, a column a stage."""
    stages = list(dict.fromkeys(row["stage"] for row in spent))
    rows: dict[str, dict[str, float]] = {}
    for row in spent:
        rows.setdefault(where(row), {})[row["stage"]] = row["seconds"]
    if rows:
        print()
        rows_table(
            ["duration", *stages],
            [
                [name, *(_short(found[s]) if s in found else "-" for s in stages)]
                for name, found in rows.items()
            ],
        )


def _short(seconds: float) -> str:
    return duration(seconds) if seconds >= 0.5 else "< 1 s"


def _next(tree: dict[str, Any]) -> str:
    """The command that a person would most likely type now."""
    run = tree["run"]
    if tree["state"] == "running":
        return f"`pelican logs {run}` lists what the stages print"
    if tree["state"] != "complete":
        if tree["pipeline"] is None:
            return f"`pelican logs {run}` lists what the stages printed"
        return f"`{_again(tree)}` continues it"
    keep = "`pelican models add NAME POLICY` registers the policy above; " if tree["policy"] else ""
    return f"{keep}`pelican compare {run} OTHER` sets two runs side by side"


def _again(tree: dict[str, Any]) -> str:
    """The submission, as it can be typed again."""
    if tree["pipeline"] == "retrain":
        given = parse_overrides(tree["overrides"])
        data, model = given.get("retrain.data", "DATA"), given.get("retrain.parent", "MODEL")
        words = ["pelican", "retrain", "--data", data, "--from", model, "--recipe", tree["address"]]
        return shlex.join(words)
    overrides = "".join(f" --set {shlex.quote(text)}" for text in tree["overrides"])
    return (
        f"pelican submit --pipeline {tree['pipeline']} --recipe {shlex.quote(tree['address'])}"
        f"{overrides} --run {tree['run']}"
    )


# `pelican report` and `compare`: the pages, and the comparison as text or JSON.


def print_report(run: str, against: Sequence[str], uri: str | None) -> None:
    """Also of a run that goes on or failed: the page shows what is there."""
    from pelican.report import build_report
    from pelican.report.run import open_address

    store = open_store(env.store_uri(uri))
    damaged: list[DamagedError] = []
    others = [open_address(other, store) for other in against]
    print(build_report(store, run, others, damaged.append))
    tell_damage(damaged)


def print_comparison(
    addresses: Sequence[str], as_json: bool, output: Path | None, uri: str | None
) -> None:
    """Tables, and the page: to `output`, else to the store; with `as_json` the numbers alone."""
    from pelican.report.compare import compare_runs, open_runs

    if output is not None:
        check_output(output, "--output")
    store = open_store(env.store_uri(uri))
    runs = open_runs(store, addresses)
    table = compare_runs(runs)
    if as_json:
        print(table.model_dump_json(indent=1))
    else:
        _print_comparison(store, runs, table, addresses, output)
    tell_damage(error for one in runs.values() for error in one.damaged)


def _print_comparison(
    store: ObjectStore,
    runs: Mapping[str, Run],
    table: RunTable,
    addresses: Sequence[str],
    output: Path | None,
) -> None:
    from pelican.report.compare import build_comparison, render_comparison

    _print_tables(table)
    if output is None:
        page = str(build_comparison(store, runs, table))
    else:
        output.write_text(render_comparison(runs, table), encoding="utf-8")
        page = str(output)
    print(f"page    {page}")
    others = "".join(f" --against {shlex.quote(address)}" for address in addresses[1:])
    what = "draws gain and forgetting beside the others" if others else "writes its report again"
    print(f"next    `pelican report {shlex.quote(addresses[0])}{others}` {what}")


def _print_tables(table: RunTable) -> None:
    labels = [row.run for row in table.rows]
    columns = ["run", "trained by", "loops", "embodied", "gain (95 %)", "general", "gain (95 %)"]
    rows_table(
        [*columns, f"against {labels[0]}"],
        [
            [
                row.run,
                row.kind,
                str(row.loops),
                _number(row.final),
                _change(row.gain),
                _number(row.general),
                _change(row.general_gain),
                _against(row, first=index == 0),
            ]
            for index, row in enumerate(table.rows)
        ],
    )
    rows_table(
        ["cost", "stages", "GPU hours", "CPU hours", "tokens generated", "trained on"],
        [
            [
                row.run,
                duration(row.cost.seconds),
                _hours(row.cost.gpu_hours),
                _hours(row.cost.cpu_hours),
                f"{row.cost.generated_tokens:,}",
                f"{row.cost.trained_tokens:,}",
            ]
            for row in table.rows
        ],
    )
    families = sorted({name for row in table.rows for name in row.families})
    if families:
        rows_table(
            ["family", *labels],
            [
                [
                    name,
                    *(
                        _number(e.score if (e := r.families.get(name)) else None)
                        for r in table.rows
                    ),
                ]
                for name in families
            ],
        )
    if table.recipe_differences:
        rows_table(
            ["recipe field", *labels],
            [
                [field, *(text(values[label]) for label in labels)]
                for field, values in table.recipe_differences.items()
            ],
        )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _hours(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _against(row: RunRow, first: bool) -> str:
    if row.against_first is None and not first and row.final is not None:
        return "no common question"
    return _change(row.against_first)


def _change(change: Difference | None) -> str:
    if change is None:
        return "-"
    return f"{change.delta:+.1f} ({change.low:+.1f} to {change.high:+.1f})"
