"""DPPO against its controls at equal compute: `make experiments`, then docs/results.md.

Each variant is a recipe of the repository with budgets chosen so that all train and generate about
as many tokens as DPPO; the table counts them. Runs are ordinary runs of the store: finished ones are
not run again, interrupted ones continue.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pelican import settings
from pelican.errors import UserInputError
from pelican.outcome import show
from pelican.runs import manifests
from pelican.storage.objects import ObjectStore, open_store


@dataclass(frozen=True)
class Variant:
    """A recipe and what is changed in it."""

    recipe: str
    overrides: str
    meaning: str


VARIANTS: dict[str, Variant] = {
    "dppo": Variant("tiny", "", "RL and SFT in turn, three loops"),
    "rl_only": Variant("tiny+rl_only", "rl.max_steps=110", "RL phases alone, longer"),
    "sft_only": Variant("tiny+sft_only", "sft.epochs=6", "SFT phases alone, longer"),
    "one_loop": Variant("tiny+one_loop", "", "one RL and one SFT phase of three times the length"),
    "random_sampling": Variant("tiny+random_sampling", "", "RL on random samples"),
    "replay_only": Variant("tiny+replay_only", "sft.epochs=6", "SFT on general replay alone"),
}
_TOKENS = {
    "generated": {
        "rollout": "tokens",
        "train-rl": "tokens_generated",
        "distill": "teacher_tokens",
    },
    "trained": {"train-rl": "tokens_trained", "train-sft": "tokens_trained"},
}


def run_name(variant: str, seed: int, tag: str) -> str:
    """Such as `results-dppo-s0`."""
    return f"{tag}-{variant.replace('_', '-')}-s{seed}"


def run(variants: Sequence[str], seeds: Sequence[int], tag: str, more: str) -> None:
    """Submit what is not complete, one after the other; a failed run is told and passed over."""
    for seed in seeds:
        for name in variants:
            variant = VARIANTS[name]
            overrides = " ".join(filter(None, [variant.overrides, f"seed={seed}", more]))
            command = [sys.executable, "-m", "pelican", "submit", "--pipeline", "metaloop"]
            command += ["--recipe", variant.recipe, "--set", overrides]
            command += ["--run", run_name(name, seed, tag)]
            print("#", " ".join(command[2:]), flush=True)
            if subprocess.run(command, check=False).returncode:
                print(f"# {run_name(name, seed, tag)} failed", flush=True)


def tokens(store: ObjectStore, run: str, kind: str) -> int:
    """Tokens generated, or trained on (once for each epoch), in thousands."""
    fields = _TOKENS[kind]
    found = [m.counts.get(fields[m.stage], 0) for m in manifests(store, run) if m.stage in fields]
    return round(sum(found) / 1000)


def table(store: ObjectStore, variants: Sequence[str], seeds: Sequence[int], tag: str) -> list[str]:
    """Markdown: a row per variant, then a row per run."""
    head = ["variant", "runs", "base", "final", "gain", "general", "k tokens generated", "trained"]
    lines = _head(head)
    detail = _head(["run", "base", "final", "gain (paired 95 %)", "general (paired 95 %)", "min"])
    for name in variants:
        rows = []
        for seed in seeds:
            run = run_name(name, seed, tag)
            tree = _complete(store, run)
            if tree is None:
                continue
            rows.append(_row(store, run, tree))
            row = rows[-1]
            detail.append(
                _line(
                    [
                        run,
                        f"{row['base']:.1f}",
                        f"{row['final']:.1f}",
                        _interval(row["embodied"]),
                        _interval(row["general"]),
                        f"{tree['seconds'] / 60:.0f}",
                    ]
                )
            )
        if rows:
            lines.append(
                _line(
                    [
                        f"{name}: {VARIANTS[name].meaning}",
                        str(len(rows)),
                        _mean([r["base"] for r in rows]),
                        _mean([r["final"] for r in rows]),
                        _mean([r["embodied"]["delta"] for r in rows], "+"),
                        _mean([r["general"]["delta"] for r in rows], "+"),
                        _mean([r["generated"] for r in rows], digits=0),
                        _mean([r["trained"] for r in rows], digits=0),
                    ]
                )
            )
    return [*lines, "", *detail]


def _complete(store: ObjectStore, run: str) -> dict[str, Any] | None:
    try:
        tree = show(store, run)
    except UserInputError:
        return None
    return tree if tree["state"] == "complete" else None


def _row(store: ObjectStore, run: str, tree: dict[str, Any]) -> dict[str, Any]:
    last = tree["scores"][-1]
    return {
        "base": tree["scores"][0]["embodied"],
        "final": last["embodied"],
        "embodied": last["against"]["base"]["embodied"],
        "general": last["against"]["base"]["general"],
        "generated": tokens(store, run, "generated"),
        "trained": tokens(store, run, "trained"),
    }


def _head(names: Sequence[str]) -> list[str]:
    return [_line(names), _line(["---"] * len(names))]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _mean(values: Sequence[float], sign: str = "", digits: int = 1) -> str:
    text = f"{statistics.fmean(values):{sign}.{digits}f}"
    return f"{text} ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else text


def _interval(difference: dict[str, float]) -> str:
    return f"{difference['delta']:+.1f} ({difference['low']:+.1f} to {difference['high']:+.1f})"


def main() -> None:
    """`run` and `table`; both take the same choice of variants and seeds."""
    parser = argparse.ArgumentParser(prog="benchmarks.experiments", description=__doc__)
    parser.add_argument("action", choices=["run", "table"])
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--tag", default="results")
    parser.add_argument("--set", default="", help="overrides for every variant")
    given = parser.parse_args()
    if given.action == "run":
        run(given.variants, given.seeds, given.tag, given.set)
    store = open_store(settings.store_uri(None))
    print("\n".join(table(store, given.variants, given.seeds, given.tag)))


if __name__ == "__main__":
    main()
