"""`pelican submit --pipeline ablations`: a set of runs, then their table in docs/results.md."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from pelican import settings
from pelican.commands.submit import as_kept, submit
from pelican.errors import PelicanError, UserInputError
from pelican.experiments.document import around, rewrite
from pelican.experiments.table import NOTHING, table
from pelican.experiments.variants import ABLATIONS, BASE, TAG, Variant, make_command, run_name
from pelican.launch.base import CancelledError
from pelican.launch.choice import choose
from pelican.preflight import check_same_recipe
from pelican.recipes import find_recipe
from pelican.recipes.overrides import nearest
from pelican.runs import check_run_name, read_recipe, state
from pelican.storage.objects import ObjectStore, open_store

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
    """Run what is not complete, rewrite the section of `tag`, and say which runs failed.

    Raises UserInputError before the first run if one of them could not start, or the file has no
    place for the table.
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
    where = output or settings.home() / RESULTS
    section = SECTION if tag == TAG else f"{SECTION} {tag}"
    around(where, section)
    try:
        failed = run_all(chosen, numbers, tag, more, store=store, launcher=launcher)
    finally:
        lines = table(open_store(settings.store_uri(store)), tag)
        print("\n".join(lines), flush=True)
        if lines != [NOTHING]:
            rewrite(where, section, lines)
            print(f"table   {where}, between the marks of {section!r}", flush=True)
    if failed:
        raise PelicanError(
            f"{len(failed)} of {len(chosen) * len(numbers)} runs failed: {', '.join(failed)};"
            " `pelican show RUN` says why, and the same command tries them again"
        )


def run_all(
    variants: Mapping[str, Variant],
    seeds: Sequence[int],
    tag: str,
    more: str,
    *,
    store: str | None = None,
    launcher: str = "auto",
) -> list[str]:
    """Submit what is not complete, one after the other. Gives the runs that failed, which are told.

    Stages that an earlier run has done are taken over. Raises CancelledError if a run was stopped.
    """
    os.environ.setdefault(settings.REUSE, "on")
    objects, failed = open_store(settings.store_uri(store)), []
    for seed in seeds:
        for label, variant in variants.items():
            name, overrides = run_name(label, seed, tag), variant.settings(seed, more)
            try:
                if _complete(objects, name, variant, overrides, launcher):
                    print(f"# {name} is complete", flush=True)
                    continue
                print(f"# {make_command(variant, name, seed, more)}", flush=True)
                submit("metaloop", variant.recipe, [overrides], name, store, launcher, wait=True)
            except CancelledError:
                raise CancelledError("the set was stopped; the same command continues it") from None
            except PelicanError as error:
                print(f"# {name} failed: {error}", flush=True)
                failed.append(name)
    return failed


def _complete(
    store: ObjectStore, name: str, variant: Variant, overrides: str, launcher: str
) -> bool:
    """Raises UserInputError if there is a run of that name with another recipe."""
    stored = read_recipe(store, name)
    if stored is None:
        return False
    asked = find_recipe(variant.recipe, [overrides])
    chosen, _ = choose(launcher, store.uri)
    check_same_recipe(name, stored, as_kept(store, asked, chosen))
    return state(store, name) == "complete"


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
