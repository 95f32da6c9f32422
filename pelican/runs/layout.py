"""Runs as they lie in the store: names, recipe, stages, state. Reads manifests, needs no torch."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import ValidationError

from pelican.base.files import is_locked
from pelican.base.model import Frozen, pop_check, with_check
from pelican.config.recipe import Recipe
from pelican.config.stages import STAGES, Part, is_training, value_of
from pelican.errors import DamagedError, UserInputError
from pelican.records import Phase
from pelican.runs.records import Failure, Summary, Tree
from pelican.stages.stage import EARLIER
from pelican.storage.manifests import Manifest, read_manifest
from pelican.storage.reading import (
    OnDamage,
    damaged,
    first_fault,
    pass_over,
    read_record,
    refuse,
    tell,
)
from pelican.storage.store import ObjectStore

# Where the stages of a run find their pools: a retraining has them in the run, not in the recipe.


def intake_prefix(run: str) -> str:
    return f"{run_prefix(run)}/retrain/intake"


def practice_prefix(run: str) -> str:
    return f"{run_prefix(run)}/retrain/practice"


def pool_of(recipe: Recipe, run: str, stage: str, loop: int, field: str) -> str | None:
    """The prefix that stands for a field of the recipe's data section, or None: as the recipe says.

    The diagnosis (loop 0) sees the new data; the loops see the practice set; every evaluation is on
    the old and the new held-out sets.
    """
    if recipe.retrain.data is None:
        return None
    if field == "data.train":
        return f"{practice_prefix(run)}/train" if loop else f"{intake_prefix(run)}/train"
    if field == "data.evaluation" and stage == "eval":
        return f"{practice_prefix(run)}/evaluation"
    return None


# Runs as they lie in the store: names, recipe, stages, state. Reads manifests, needs no torch.
#
# runs/<run>/run.json       pipeline, recipe's address and digest, when it was submitted
# runs/<run>/recipe.json    the resolved recipe, written by preflight
# runs/<run>/loop-<k>/…     the stages
# runs/<run>/logs/          one log per stage, and the pipeline's own
# runs/<run>/failure.json   why the last attempt ended, if it did
# runs/<run>/summary.json   state and scores, written last

RUN, RECIPE, FAILURE, SUMMARY = "run.json", "recipe.json", "failure.json", "summary.json"
PREFLIGHT = "preflight.json"
CANCELLED = "cancelled.json"  # whoever launches a stage of the run stops
PHASES = tuple(phase.value for phase in Phase)
_STAGE = re.compile(rf"loop-(\d+)/([a-z-]+)-({'|'.join(PHASES)})/manifest\.json")
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")

State = Literal["running", "unfinished", "failed", "complete"]


class Submission(Frozen):
    """`run.json`: what was asked for."""

    run: str
    pipeline: str
    address: str
    overrides: list[str]
    recipe: str
    submitted: datetime


def check_run_name(run: str) -> str:
    """`run`, if it can be a Kubernetes label. Raises UserInputError."""
    if not _NAME.fullmatch(run):
        raise UserInputError(
            f"run name {run!r} is not 1 to 63 lower-case letters, digits and inner dashes"
        )
    return run


def run_prefix(run: str) -> str:
    return f"runs/{check_run_name(run)}"


def stage_prefix(run: str, loop: int, stage: str, phase: str) -> str:
    """The prefix that a stage owns."""
    return f"{run_prefix(run)}/loop-{loop}/{stage}-{phase}"


def prefix_of(manifest: Manifest) -> str:
    """The prefix of the stage that a manifest is of."""
    return stage_prefix(manifest.run, manifest.loop, manifest.stage, manifest.phase)


def run_of_path(store: ObjectStore, path: Path) -> str | None:
    """The run that a file or folder of the store is of, or None: it lies elsewhere."""
    runs = store.place("runs").resolve()
    inside = path.resolve()
    if store.remote or not inside.is_relative_to(runs) or inside == runs:
        return None
    return inside.relative_to(runs).parts[0]


def read_json(store: ObjectStore, key: str) -> dict[str, Any] | None:
    """The JSON object at `key`, or None. Raises DamagedError if it is none."""
    found = read_record(store, key, Tree)
    return None if found is None else found.root


def read_recipe_tree(store: ObjectStore, run: str) -> dict[str, Any] | None:
    """The run's recipe as JSON, of whatever version of Pelican, or None. Raises DamagedError."""
    key = f"{run_prefix(run)}/{RECIPE}"
    tree = read_json(store, key)
    if tree is not None and not pop_check(tree):
        why = "it is not what was written"
        raise damaged(store, key, why, "the run's command writes it again")
    return tree


def read_recipe(
    store: ObjectStore, run: str, on_damage: OnDamage = refuse, instead: Recipe | None = None
) -> Recipe | None:
    """The run's resolved recipe, or None before its preflight.

    Args:
        store: where the run lies.
        run: its name.
        on_damage: called with the error of one that can't be read, or is of another version.
        instead: stands for a damaged one, if the submission says that it is the same.
    """
    try:
        tree = read_recipe_tree(store, run)
        return None if tree is None else Recipe.model_validate(tree)
    except ValidationError as error:
        found = DamagedError(
            f"{store.uri}/{run_prefix(run)}/{RECIPE} is of another version of Pelican:"
            f" {first_fault(error)}; use that version for this run, or delete the run"
        )
    except DamagedError as error:
        found = error
    asked = read_submission(store, run, pass_over)
    if instead is not None and asked is not None and asked.recipe == instead.digest():
        return instead
    on_damage(found)
    return None


def keep_recipe(store: ObjectStore, run: str, recipe: Recipe, *, if_absent: bool = False) -> bool:
    """Write the run's recipe with a digest of itself: a flipped bit of a setting is no change of a person's."""
    data = json.dumps(with_check(recipe.model_dump(mode="json")), indent=1).encode()
    return store.write(f"{run_prefix(run)}/{RECIPE}", data, if_absent=if_absent)


def require_recipe(store: ObjectStore, run: str) -> Recipe:
    """The run's resolved recipe. Raises UserInputError before its preflight."""
    recipe = read_recipe(store, run)
    if recipe is None:
        raise UserInputError(
            f"run {run!r} has no recipe in {store.uri}, because its preflight has not run; submit it again"
        )
    return recipe


def read_submission(
    store: ObjectStore, run: str, on_damage: OnDamage = refuse
) -> Submission | None:
    return read_record(store, f"{run_prefix(run)}/{RUN}", Submission, on_damage)


def read_failure(store: ObjectStore, run: str, on_damage: OnDamage = refuse) -> Failure | None:
    """Why the run's last attempt ended, if a step of it said so."""
    return read_record(store, f"{run_prefix(run)}/{FAILURE}", Failure, on_damage)


def list_runs(store: ObjectStore, on_damage: OnDamage = tell) -> list[Submission]:
    """Every run of the store, the newest first, without those whose `run.json` is damaged."""
    keys = [key for key in store.keys("runs") if key.endswith(f"/{RUN}") and key.count("/") == 2]
    found = [read_record(store, key, Submission, on_damage) for key in keys]
    return sorted((s for s in found if s), key=lambda s: s.submitted, reverse=True)


def manifests(store: ObjectStore, run: str, on_damage: OnDamage = refuse) -> list[Manifest]:
    """The manifests of a run's finished stages, in the order in which they finished."""
    prefix = run_prefix(run)
    found = []
    for key in store.keys(prefix):
        if _STAGE.fullmatch(key.removeprefix(f"{prefix}/")):
            try:
                manifest = read_manifest(store, key.removesuffix("/manifest.json"))
            except DamagedError as error:
                on_damage(error)
                continue
            if manifest is not None:
                found.append(manifest)
    return sorted(found, key=lambda m: m.finished)


def require_run(store: ObjectStore, run: str) -> None:
    """Raises UserInputError, with the nearest name, if there is no such run."""
    if store.exists(f"{run_prefix(run)}/{RUN}") or store.exists(f"{run_prefix(run)}/{RECIPE}"):
        return
    import difflib

    known = [submission.run for submission in list_runs(store, pass_over)]
    close = difflib.get_close_matches(run, known, n=1, cutoff=0.3)
    hint = f"; did you mean {close[0]!r}?" if close else "; `pelican runs` lists them"
    raise UserInputError(f"there is no run {run!r} in {store.uri}{hint}")


def run_lock(store: ObjectStore, run: str) -> Path:
    """The file that whoever drives the run from this machine holds locked."""
    return store.place(f"{run_prefix(run)}/logs") / "run.lock"


def state(store: ObjectStore, run: str, on_damage: OnDamage = tell) -> State:
    """Whether a run is complete, failed, running now, or was cut off.

    A run whose summary is damaged is unfinished: the same submission finds its stages done, and writes
    the summary again.
    """
    prefix = run_prefix(run)
    if is_locked(run_lock(store, run)):
        return "running"
    summary = read_record(store, f"{prefix}/{SUMMARY}", Summary, on_damage)
    if summary is not None and summary.state == "complete":
        return "complete"
    return "failed" if store.exists(f"{prefix}/{FAILURE}") else "unfinished"


def expected_stages(recipe: Recipe, pipeline: str) -> int:
    """How many stages a run of a pipeline has if no gate stops it."""
    times: dict[Part, int] = {"base": 1}
    if pipeline == "retrain":
        times["diagnosis"] = 1
    elif pipeline != "evaluate" and recipe.data.dev is not None:
        times["sealed"] = 2
    if pipeline != "evaluate":
        times["rl"] = recipe.loops * (recipe.rl.enabled and pipeline != "sft_only")
        times["sft"] = recipe.loops * (recipe.sft.enabled and pipeline != "rl_only")
    rows = STAGES.values()
    return sum(times[part] for row in rows for part in times if row.is_of(part, recipe))


def earlier_inputs(recipe: Recipe, run: str, stage: str, loop: int, phase: str) -> dict[str, str]:
    """What a stage reads of what the run made before this loop and phase: input name -> prefix, in order.

    They are named by the run's layout and not handed on by the graph, where all of them come first.
    """
    row = STAGES[stage]
    if not row.earlier or not value_of(recipe, row.earlier_if):
        return {}
    now = (loop, PHASES.index(phase))
    moments = [
        (k, part)
        for k in range(loop + 1)
        for part in PHASES
        if (k, PHASES.index(part)) < now and _has(recipe, row.earlier, k, part)
    ]
    return {
        f"{EARLIER}-{k:02d}-{part}": stage_prefix(run, k, row.earlier, part) for k, part in moments
    }


def _has(recipe: Recipe, stage: str, loop: int, phase: str) -> bool:
    """Whether a run of the metaloop, or a retraining, has this stage there."""
    row = STAGES[stage]
    match phase:
        case "base":
            retrains = recipe.retrain.data is not None
            return loop == 0 and retrains and row.is_of("diagnosis", recipe)
        case "rl":
            return loop > 0 and recipe.rl.enabled and row.is_of("rl", recipe)
        case "sft":
            return loop > 0 and recipe.sft.enabled and row.is_of("sft", recipe)
        case _:
            return False


def place_of(loop: int, phase: str) -> tuple[int, int]:
    """Where a phase stands in a run: base, the loops, and the sealed set at the end."""
    number = PHASES.index(phase)
    return (10**6 if Phase(phase).sealed else loop, number)


def evaluations(found: Iterable[Manifest]) -> list[Manifest]:
    """The evaluations that the gates read, base first, in the order of training."""
    read = [m for m in found if m.stage == "eval" and not Phase(m.phase).sealed]
    return sorted(read, key=lambda m: place_of(m.loop, m.phase))


def passed(evaluation: Manifest) -> bool:
    """Whether the gate of an evaluation said go on; true where none was asked."""
    return evaluation.metrics.get("go_on", 1.0) >= 0.5


class Offer(NamedTuple):
    """What a run offers as its policy: the evaluation of it, and that of one that its gate refused."""

    evaluation: Manifest | None
    refused: Manifest | None


def offer_of(found: Iterable[Manifest], last_phase: str) -> Offer:
    """The newest policy that a gate let pass: of the last loop that did, once a loop was refused.

    A loop's gate speaks of the whole loop, so the policy between the phases of a refused one is not
    offered. Where no loop passed it is the base. What lies behind a refused loop is of an attempt before
    `--redo`, for this one ended there.

    Args:
        found: the run's manifests.
        last_phase: the phase that ends a loop.
    """
    done = evaluations(found)
    refused = next((m for m in done if m.phase == last_phase and not passed(m)), None)
    kept = [m for m in done if passed(m)]
    if refused is not None:
        ends = (last_phase, Phase.BASE)
        kept = [m for m in kept if m.phase in ends and m.loop < refused.loop]
    return Offer(kept[-1] if kept else None, refused)


def last_phase_of(found: Iterable[Manifest], recipe: Recipe | None) -> str:
    """The phase that ends a loop: by the recipe, or, where it can't be read, by what was done."""
    if recipe is not None:
        return recipe.last_phase.value
    return (Phase.SFT if any(m.phase == Phase.SFT for m in found) else Phase.RL).value


def last_policy(found: list[Manifest], recipe: Recipe | None) -> str | None:
    """Prefix of the checkpoint that the run offers (`offer_of`); None: nothing better than its base."""
    offered = offer_of(found, last_phase_of(found, recipe)).evaluation
    if offered is None:
        return None
    trained = (m for m in found if is_training(m.stage))
    of_it = [m for m in trained if (m.loop, m.phase) == (offered.loop, offered.phase)]
    return f"{prefix_of(of_it[0])}/checkpoint" if of_it else None
