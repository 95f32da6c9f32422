"""The table of a set of runs, in Markdown: a row per variant, then a row per run."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from pelican.errors import UserInputError
from pelican.experiments.variants import Variant, make_command, run_name
from pelican.outcome import show, tokens
from pelican.runs import manifests, read_json, stage_prefix
from pelican.storage.objects import ObjectStore

NOTHING = "No run of the set is complete."
_VARIANTS = ["variant", "runs", "base", "final", "gain", "general", "thinking, base", "end"]
_VARIANTS += ["k tokens generated", "trained"]
_RUNS = ["run", "base", "final", "gain (paired 95 %)", "general (paired 95 %)", "thinking"]
_RUNS += ["min", "command"]


def table(
    store: ObjectStore,
    variants: Mapping[str, Variant],
    seeds: Sequence[int],
    tag: str,
    more: str = "",
) -> list[str]:
    """Lines of both tables, from complete runs; a variant without one has no row.

    Scores are points of 100, thinking is characters an embodied answer, ± is the standard deviation
    over seeds.
    """
    lines, detail = _head(_VARIANTS), _head(_RUNS)
    for label, variant in variants.items():
        rows = []
        for seed in seeds:
            run = run_name(label, seed, tag)
            tree = _complete(store, run)
            if tree is not None:
                rows.append(_row(store, run, tree))
                typed = make_command(variant, run, seed, more)
                detail.append(_detail(run, rows[-1], tree["seconds"] / 60, typed))
        if rows:
            lines.append(_summary(f"{label}: {variant.meaning}", rows))
    return [*lines, "", *detail] if len(lines) > 2 else [NOTHING]


def _summary(name: str, rows: Sequence[dict[str, Any]]) -> str:
    def mean(key: str, sign: str = "", digits: int = 1) -> str:
        return _mean([row[key] for row in rows], sign, digits)

    return _line(
        [
            name,
            str(len(rows)),
            mean("base"),
            mean("final"),
            _mean([row["embodied"]["delta"] for row in rows], "+"),
            _mean([row["general"]["delta"] for row in rows], "+"),
            mean("think_base", digits=0),
            mean("think_end", digits=0),
            mean("generated", digits=0),
            mean("trained", digits=0),
        ]
    )


def _detail(run: str, row: dict[str, Any], minutes: float, command: str) -> str:
    return _line(
        [
            run,
            f"{row['base']:.1f}",
            f"{row['final']:.1f}",
            _interval(row["embodied"]),
            _interval(row["general"]),
            f"{row['think_base']:.0f} to {row['think_end']:.0f}",
            f"{minutes:.0f}",
            f"`{command}`",
        ]
    )


def _complete(store: ObjectStore, run: str) -> dict[str, Any] | None:
    try:
        tree = show(store, run)
    except UserInputError:
        return None
    return tree if tree["state"] == "complete" else None


def _row(store: ObjectStore, run: str, tree: dict[str, Any]) -> dict[str, Any]:
    first, last = tree["scores"][0], tree["scores"][-1]
    found = manifests(store, run)
    return {
        "base": first["embodied"],
        "final": last["embodied"],
        "embodied": last["against"]["base"]["embodied"],
        "general": last["against"]["base"]["general"],
        "think_base": _thinking(store, run, first),
        "think_end": _thinking(store, run, last),
        "generated": round(tokens(found, "generated") / 1000),
        "trained": round(tokens(found, "trained") / 1000),
    }


def _thinking(store: ObjectStore, run: str, entry: Mapping[str, Any]) -> float:
    """Mean characters of an evaluation's chains of thought, embodied."""
    where = stage_prefix(run, entry["loop"], "eval", entry["phase"])
    return float((read_json(store, f"{where}/summary.json") or {})["mean_think_chars"])


def _head(names: Sequence[str]) -> list[str]:
    return [_line(names), _line(["---"] * len(names))]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _mean(values: Sequence[float], sign: str = "", digits: int = 1) -> str:
    text = f"{statistics.fmean(values):{sign}.{digits}f}"
    return f"{text} ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else text


def _interval(difference: dict[str, float]) -> str:
    return f"{difference['delta']:+.1f} ({difference['low']:+.1f} to {difference['high']:+.1f})"
