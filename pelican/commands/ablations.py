"""`pelican submit --pipeline ablations`: a set of runs, then their table in docs/results.md."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pelican import settings
from pelican.errors import PelicanError, UserInputError
from pelican.experiments.document import rewrite
from pelican.experiments.runs import TAG, run_all, run_name
from pelican.experiments.table import table
from pelican.experiments.variants import ABLATIONS, BASE, Variant
from pelican.recipes import find_recipe
from pelican.recipes.overrides import nearest
from pelican.runs import check_run_name
from pelican.storage.objects import open_store

RESULTS = "docs/results.md"
SECTION = "ablations"


def ablations(
    recipe: str,
    overrides: Sequence[str],
    tag: str | None,
    variants: str | None,
    seeds: str,
    store: str | None,
    launcher: str,
    output: Path | None = None,
) -> None:
    """Run what is not complete, rewrite the section, and say which runs failed.

    Raises UserInputError before the first run if one of them could not start.
    """
    if recipe != BASE:
        raise UserInputError(
            f"the ablations' budgets are chosen for the recipe {BASE!r}, not {recipe!r}; name what"
            f" shall differ with SET, and the runs with RUN (their prefix, by default {TAG!r})"
        )
    more, tag, numbers = " ".join(filter(None, overrides)), tag or TAG, _seeds(seeds)
    chosen = _chosen(variants)
    for label, variant in chosen.items():
        for seed in numbers:
            check_run_name(run_name(label, seed, tag))
            find_recipe(variant.recipe, [variant.settings(seed, more)])
    failed: list[str] = []
    where = output or settings.home() / RESULTS
    try:
        failed = run_all(chosen, numbers, tag, more, store=store, launcher=launcher)
    finally:
        objects = open_store(settings.store_uri(store))
        lines = table(objects, chosen, numbers, tag, more)
        rewrite(where, SECTION, lines)
        print("\n".join(lines))
        print(f"table   {where}, between the marks of {SECTION!r}", flush=True)
    if failed:
        raise PelicanError(
            f"{len(failed)} of {len(chosen) * len(numbers)} runs failed: {', '.join(failed)};"
            " `pelican show RUN` says why, and the same command tries them again"
        )


def _chosen(names: str | None) -> dict[str, Variant]:
    if not names:
        return ABLATIONS
    chosen = [name for name in names.replace(" ", "").split(",") if name]
    for name in chosen:
        if name not in ABLATIONS:
            raise UserInputError(f"there is no ablation {name!r}{nearest(name, ABLATIONS)}")
    return {name: ABLATIONS[name] for name in ABLATIONS if name in chosen}


def _seeds(text: str) -> list[int]:
    try:
        return list(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        raise UserInputError(f"--seeds is {text!r}; give whole numbers, such as 0,1,2") from None
