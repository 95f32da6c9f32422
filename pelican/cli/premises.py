"""The work of `pelican premises`: a model and a pool are asked, and the verdicts printed."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pelican.base.model import digest_of
from pelican.cli.benchmark import open_model
from pelican.cli.output import check_output, counted, rows_table
from pelican.config import env
from pelican.config.presets import find_recipe
from pelican.errors import UserInputError

if TYPE_CHECKING:
    from pelican.config.recipe import Recipe
    from pelican.data.pool import PoolIndex
    from pelican.premises.probe import Asked, Chosen, Clock, Probe, Taught
    from pelican.premises.verdicts import Premises

# How far into the time each group of questions may go; what is not used is left to the next.
POOL_UNTIL, GENERAL_UNTIL, RARE_UNTIL, TEACHER_UNTIL = 0.5, 0.65, 0.8, 1.0
GENERAL_TRIES = TEACHER_TRIES = 4
TAUGHT = 64  # questions that the teacher is asked, at most
_INSTEAD = ", or an endpoint's URL to /v1"


def print_premises(
    model: str,
    pool: str,
    address: str,
    overrides: Sequence[str],
    *,
    teacher: str | None,
    general: str | None,
    samples: int,
    tries: int,
    minutes: float,
    as_json: bool,
    output: Path | None,
) -> None:
    """Ask, judge and print. Raises UserInputError for a model, pool or recipe that can't be used."""
    from pelican.premises.probe import Clock, choose, kind_of
    from pelican.premises.verdicts import Evidence, judge, kinds_of
    from pelican.stages.parts import when_needed

    if output is not None:
        check_output(output, "--output")
        if output.suffix != ".json":
            raise UserInputError(
                f"--output {output} is written as JSON; give a name that ends in .json"
            )
    recipe = find_recipe(address, overrides)
    if recipe.rollout.sampling.temperature == 0:
        raise UserInputError(
            "rollout.sampling.temperature is 0, so that all tries would be alike; give"
            " --set rollout.sampling.temperature=1"
        )
    index = _index("POOL", pool)
    chosen = choose(index, recipe, samples)
    around = _general(recipe, pool, general)
    name, identity, opening = open_model(recipe, "MODEL", model, instead=_INSTEAD)
    clock = Clock(minutes)
    probe = _probe(identity, recipe, index, clock)
    with when_needed(opening) as engine:
        asked = probe.ask("pool", index, chosen.main, engine, attempts=tries, until=POOL_UNTIL)
        if not asked:
            raise UserInputError(
                f"none of {counted(len(chosen.main), 'question', 'questions')} of {index.folder} can be"
                f" read; first: {probe.left_out.rows[0]}; `pelican data check {pool}` lists them"
            )
        suite = []
        if around is not None:
            entries = choose(around, recipe, max(1, samples // 2)).main
            suite = _probe(identity, recipe, around, clock).ask(
                "general", around, entries, engine, attempts=GENERAL_TRIES, until=GENERAL_UNTIL
            )
        asked += probe.ask(
            "rare", index, chosen.extra, engine, attempts=tries, until=RARE_UNTIL, extra=True
        )
    taught = _teach(recipe, model, teacher, index, asked, clock)
    found = judge(
        Evidence(
            asked=asked,
            general=suite,
            taught=taught,
            pool=kinds_of(kind_of(entry, recipe) for entry in chosen.usable),
            unscored=chosen.unscored,
            recipe=recipe,
        )
    )
    if sys.stderr.isatty():
        print(file=sys.stderr)
    text = found.model_dump_json(indent=1)
    if output is not None:
        output.write_text(text + "\n", encoding="utf-8")
    if as_json:
        return print(text)
    _print(found, name, index, chosen, asked, probe)
    if output is not None:
        print(f"\nnumbers  {output}")


def _index(option: str, pool: str) -> PoolIndex:
    """A pool by its folder or POOL@VERSION."""
    from pelican.data.pool import read_index
    from pelican.data.versions import find_pool

    folder = find_pool(env.resolve(pool))
    if not folder.exists():
        raise UserInputError(f"{option} {pool}: there is nothing at {folder}; give a pool's folder")
    return read_index(folder)


def _general(recipe: Recipe, pool: str, general: str | None) -> PoolIndex | None:
    """The general pool: the one that is named, else the recipe's if the pool is the recipe's."""
    if general is not None:
        return _index("--general", general)
    ours = Path(env.resolve(pool)) == Path(env.resolve(recipe.data.train))
    there = Path(env.resolve(recipe.data.replay)).exists()
    return _index("data.replay", recipe.data.replay) if ours and there else None


def _teach(
    recipe: Recipe,
    model: str,
    teacher: str | None,
    index: PoolIndex,
    asked: Sequence[Asked],
    clock: Clock,
) -> list[Taught] | None:
    """The teacher's tries at what the model never solved; None without a teacher.

    Without --teacher it is the recipe's, if the model is the recipe's policy.
    """
    from pelican.premises.verdicts import never_solved
    from pelican.stages.parts import when_needed

    ours = Path(env.resolve(model)) == Path(env.resolve(recipe.models.policy))
    named = teacher or (recipe.models.teacher if ours else None)
    if named is None:
        return None
    option = "--teacher" if teacher else "models.teacher"
    _, identity, opening = open_model(recipe, option, named, instead=_INSTEAD)
    hard = [one.id for one in asked if not one.extra and never_solved(one)][:TAUGHT]
    entries = index.with_ids(hard)
    probe = _probe(identity, recipe, index, clock)
    with when_needed(opening) as engine:
        return probe.teach(index, entries, engine, tries=TEACHER_TRIES, until=TEACHER_UNTIL)


def _probe(identity: str, recipe: Recipe, index: PoolIndex, clock: Clock) -> Probe:
    """One model and one pool; what they said before under the same settings is there."""
    from pelican.evaluation.published.run import checkpoint_stamp
    from pelican.premises.probe import Probe

    folder = index.folder
    stamp = checkpoint_stamp(folder) if folder.is_dir() else digest_of(folder.stat().st_mtime_ns)
    settings = [
        recipe.model.model_dump(mode="json"),
        recipe.rollout.sampling.model_dump(),
        recipe.eval.sampling.model_dump(),
        recipe.distill.sampling.model_dump(),
        recipe.reward.model_dump(mode="json"),
        list(recipe.data.horizon_s),
        recipe.data.max_pixels,
        recipe.seed,
    ]
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", identity.partition("@")[0]).strip("._") or "model"
    key = digest_of([identity, str(folder.resolve()), stamp, settings])
    where = env.home() / ".pelican" / "premises" / f"{name}-{key}"
    return Probe(where, recipe, clock, _progress)


def _progress(what: str, done: int, of: int) -> None:
    if sys.stderr.isatty():
        print(f"\r{what}: {done} of {of} questions ", end="", file=sys.stderr, flush=True)


# What is printed: what was asked, a table of premises, a table of phases, and the sentences.


def _print(
    found: Premises,
    name: str,
    index: PoolIndex,
    chosen: Chosen,
    asked: Sequence[Asked],
    probe: Probe,
) -> None:
    main = [one for one in asked if not one.extra]
    tries = len(main[0].drawn)
    print(
        f"{name} on {index.folder}: {counted(len(main), 'question', 'questions')} of"
        f" {len(chosen.usable):,}, greedily and {tries} times by drawing; 95 % intervals in brackets"
    )
    if len(main) < len(chosen.main):
        print(
            f"the time was up: {len(main)} of {len(chosen.main)} questions; the same command goes on"
        )
    if chosen.sealed:
        print(f"{chosen.sealed:,} rows of split test are sealed, and were not asked")
    if len(probe.left_out):
        first = probe.left_out.rows[0]
        print(f"left out {len(probe.left_out)} that can't be read; first: {first}")
    print()
    columns = ["family", *(measure.name for measure in found.premises[1].measures[:5])]
    rows = [
        [family, *(f"{100 * measure.value:.0f}" if measure.n else "-" for measure in measures)]
        for family, measures in found.families.items()
    ]
    rows_table(columns, rows)
    print("\npremises")
    rows_table(["", "", "verdict"], [[p.name, p.claim, p.verdict] for p in found.premises])
    for premise in found.premises:
        print(f"\n{premise.name} {premise.verdict}: {premise.because}.")
    print("\nso, of DPPO's parts")
    rows_table(["", "verdict"], [[phase.name, phase.verdict] for phase in found.phases])
    for phase in found.phases:
        print(f"\n{phase.name} {phase.verdict}: {phase.because}.")
