"""What a user types, stores and resumes by is what it was before the files moved.

`unchanged.json` holds what was found at f24c200, a table of text a function here. Where the two differ
a run's stages are done again, a command ends otherwise, or a file is no longer read: a change of that
kind is decided, told in the changelog, and made in both files by hand.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pydantic import BaseModel
from typer.main import get_command

from pelican.base.metrics import COMMON, MEMORY, SERIES
from pelican.base.model import digest_of
from pelican.cli.main import app
from pelican.config.env import home
from pelican.config.presets import ABLATIONS, BASES, PIPELINES, find_recipe, for_pipeline
from pelican.config.recipe import Recipe
from pelican.config.stages import STAGES
from pelican.data.entries import ENTRIES
from pelican.data.tables import LEDGER, ROLLOUTS, SAMPLES, SCORES
from pelican.data.versions import Imported, Shard, Version
from pelican.dppo.distillation import MIXTURE, TEACHER, MixtureRow, TeacherRow
from pelican.engines.base import rollout_seed
from pelican.engines.server import ServerSpec
from pelican.errors import InfrastructureError, PelicanError, ResourceError, UserInputError
from pelican.evaluation.gate import Check, Gate
from pelican.evaluation.metrics import RESULTS, Comparison, Difference, Estimate, Flips, Summary
from pelican.evaluation.published.run import Scores, Settings
from pelican.launch.explain import PreemptedError
from pelican.launch.job import CancelledError, StageError, error_of
from pelican.launch.kfp import RunEndedError
from pelican.launch.podspec import Target, job_name, processes_of
from pelican.launch.pytorchjob import StuckError
from pelican.launch.step import make_job, make_spec, smaller_job
from pelican.records import LedgerRow, Phase, Rollout, Sample, Score, Turn
from pelican.registry.models import (
    Aliases,
    DataUse,
    Decision,
    Lineage,
    ModelVersion,
    Move,
    MovedError,
)
from pelican.report.compare import Pair, RunRow, RunTable
from pelican.report.run import Cost
from pelican.retrain.records import DataObject, DataVersion, FileFault, Intake, Verdict, Weakness
from pelican.retrain.trigger.config import PREFIX, Metrics, TriggerConfig
from pelican.retrain.trigger.inbox import Batch, ObjectEvent, Pending, Seen
from pelican.retrain.trigger.worker import Status
from pelican.rewards.judge import PROMPT_VERSION
from pelican.rewards.score import is_flipped
from pelican.runs.layout import Submission, expected_stages, stage_prefix
from pelican.runs.preflight import needed_models, needed_pools
from pelican.stages.fingerprint import stage_fingerprint
from pelican.stages.reward import flip_seed
from pelican.stages.rollout import SELECTION, phase_seed
from pelican.stages.stage import StageName, StageSpec, input_digest
from pelican.stages.train_rl import seed_of
from pelican.storage.manifests import Manifest, OutputFile, commit_manifest
from pelican.storage.store import FolderStore
from pelican.training.grpo import schedule
from tests.conftest import ROOT, World

RECORDED = json.loads(Path(__file__).with_name("unchanged.json").read_text(encoding="utf-8"))
Table = dict[str, str]

JUDGE = "reward.judge.endpoint=http://judge/v1 reward.judge.model=judge"
# A recipe's address, and overrides after a space.
RECIPES = (
    *BASES,
    *(f"{base}+{ablation}" for base in BASES for ablation in ABLATIONS),
    *(f"{base}+threshold(0.5)" for base in BASES),
    *(f"{base}+noisy_reward(0.25)" for base in BASES),
    "tiny+rl_only+threshold(0.9)",
    "tiny+down_sampling+hints+asymmetric_clipping",
    "tiny loops=2 rl.max_steps=50",
    "tiny seed=1",
    "tiny data.horizon_s=64 data.samples_per_loop=none",
    "tiny data.corrections=fixes.jsonl",
    "tiny model.system_prompt=先想一想",
    "tiny retrain.data=d retrain.parent=tiny:3",
    "tiny rl.kl=0 rl.variant.updates=2",
    "tiny resources.every.gpus=1 resources.train_rl.replicas=2",
    f"tiny {JUDGE}",
    "pelican_7b parallel.lora_rank=16",
    "pelican_7b parallel.strategy=zero3 distill.endpoint=http://teacher/v1",
)
# Those for which every stage is looked at.
STAGED = (
    *BASES,
    "tiny+noisy_reward(0.25)",
    "tiny+down_sampling+hints",
    f"tiny {JUDGE}",
    "tiny distill.endpoint=http://teacher/v1 rollout.engine=vllm",
    "pelican_7b resources.rollout.replicas=4 resources.every.gpus=8",
)
LOOP_1 = "runs/old/loop-1"
# What each stage is given by others; its pools and the teacher come from the recipe.
GIVEN: dict[StageName, dict[str, str]] = {
    "rollout": {"policy": "models/policy"},
    "reward": {"rollouts": f"{LOOP_1}/rollout-rl"},
    "filter": {"scores": f"{LOOP_1}/reward-rl", "policy": "models/policy"},
    "train-rl": {"policy": "models/policy", "buffer": f"{LOOP_1}/filter-rl"},
    "distill": {"policy": f"{LOOP_1}/train-rl-rl/checkpoint", "weak": f"{LOOP_1}/filter-sft"},
    "train-sft": {"policy": f"{LOOP_1}/train-rl-rl/checkpoint", "mixture": f"{LOOP_1}/distill-sft"},
    "eval": {"policy": f"{LOOP_1}/train-sft-sft/checkpoint", "base": "runs/old/loop-0/eval-base"},
}
POOLS = {name: f"pools/{name}" for name in ("pool", "replay", "evaluation", "general", "teacher")}
MODELS: tuple[type[BaseModel], ...] = (
    *(Manifest, OutputFile, Submission, StageSpec, ServerSpec),
    *(Summary, Comparison, Difference, Estimate, Flips, Gate, Check),
    *(Sample, Turn, Rollout, Score, LedgerRow, TeacherRow, MixtureRow),
    *(Version, Shard, Imported),
    *(ModelVersion, Lineage, DataUse, Aliases, Move, Decision),
    *(DataVersion, DataObject, Intake, FileFault, Weakness, Verdict),
    *(Status, Batch, Pending, Seen, ObjectEvent),
    *(RunTable, RunRow, Pair, Cost, Scores, Settings),
)
SCHEMAS: dict[str, pa.Schema] = {
    "samples": SAMPLES,
    "entries": ENTRIES,
    "selection": SELECTION,
    "rollouts": ROLLOUTS,
    "scores": SCORES,
    "ledger": LEDGER,
    "teacher": TEACHER,
    "mixture": MIXTURE,
    "results": RESULTS,
}
ERRORS: tuple[type[PelicanError], ...] = (
    *(PelicanError, UserInputError, InfrastructureError, ResourceError),
    *(CancelledError, StageError, PreemptedError, StuckError, RunEndedError, MovedError),
)
VARIABLE = re.compile(r"(PELICAN|S3|AWS|KFP|KUBE\w*|PET|TORCHELASTIC|PROMETHEUS)_\w+|KUBECONFIG")


def recipe_at(text: str) -> Recipe:
    address, _, overrides = text.partition(" ")
    return find_recipe(address, [overrides])


def recipes(store: FolderStore) -> Table:
    """Digest of the recipe, and of the text that it is to a pipeline."""

    def digests(text: str) -> str:
        try:
            recipe = recipe_at(text)
        except UserInputError:
            return "refused"
        return f"{recipe.digest()} {digest_of(recipe.as_parameter())}"

    return {text: digests(text) for text in RECIPES}


def lay_out(store: FolderStore) -> None:
    """Pools, models and finished stages, the same everywhere: some bytes, and made manifests."""
    for place in (*POOLS.values(), "models/policy"):
        for part in range(2):
            store.write(f"{place}/part-00{part}", f"{place} {part}".encode())
    store.write("fixes.jsonl", b'{"id": "s00002", "action": "drop"}\n')
    for prefix in {where for given in GIVEN.values() for where in given.values()}:
        if not prefix.startswith("runs/"):
            continue
        prefix = prefix.removesuffix("/checkpoint")
        stage, _, phase = prefix.rpartition("/")[2].rpartition("-")
        files = ("checkpoint/config.json", "checkpoint/model.safetensors", "rows.parquet")
        manifest = Manifest(
            **{"stage": stage, "run": "old", "loop": 1, "phase": phase},
            fingerprint=digest_of(prefix),
            recipe="0" * 16,
            inputs={},
            outputs=[OutputFile(path=file, size=1, sha256=digest_of(file)) for file in files],
            started=datetime(2026, 1, 1, tzinfo=UTC),
            finished=datetime(2026, 1, 2, tzinfo=UTC),
        )
        commit_manifest(store, prefix, manifest)


def stages_of(text: str, store: FolderStore) -> Iterator[tuple[StageName, StageSpec]]:
    """Every stage of a run as its launcher specifies it, with what `lay_out` made for its pools."""
    recipe = recipe_at(text)
    store.write("runs/old/recipe.json", recipe.model_dump_json().encode())
    for stage in STAGES:
        spec = make_spec(store, stage, "old", 1, "rl", GIVEN[stage])
        inputs = {name: POOLS.get(name, where) for name, where in spec.inputs.items()}
        yield stage, spec.model_copy(update={"inputs": inputs})


def fingerprints(store: FolderStore) -> Table:
    """In loop 1 after RL, in loop 2 after SFT, and in loop 1 with corrections where there is a pool."""
    lay_out(store)
    found: Table = {}
    for text in STAGED:
        for stage, spec in stages_of(text, store):
            later = spec.model_copy(update={"loop": 2, "phase": Phase.SFT})
            fixed = {**spec.inputs, "corrections": str(store.local("fixes.jsonl"))}
            specs = [spec, later]
            if "pool" in spec.inputs:
                specs.append(spec.model_copy(update={"inputs": fixed}))
            digests = [stage_fingerprint(store, each) for each in specs]
            found[f"{text}: {stage}"] = " ".join(digests)
    return found


def jobs(store: FolderStore) -> Table:
    """Inputs of every stage; processes, threads, pods, image, and what is tried if memory ran out."""
    lay_out(store)
    found: Table = {}
    for text in STAGED:
        for stage, spec in stages_of(text, store):
            job = make_job(spec)
            smaller = smaller_job(job)
            pods, each = processes_of(job, spec.recipe.resources.of(stage))
            image = Target().image_of(stage, spec.recipe)
            found[f"{text}: {stage}"] = (
                f"{' '.join(spec.inputs)}: {job.processes} x {job.threads}, {pods} x {each} of {image}"
                f"{f', then {dict(smaller.env)}' if smaller else ''}"
            )
    return found


def places(store: FolderStore) -> Table:
    """Where a stage lies, what its job is called, and what of a recipe a stage reads where it lies."""
    (spec,) = (spec for stage, spec in stages_of("tiny", store) if stage == "train-sft")
    job = make_job(spec)
    long = make_job(
        spec.model_copy(update={"run": "r" * 63, "output": f"runs/{'r' * 63}/loop-1/x"})
    )
    store.write("corrections/fixes.jsonl", b"{}")
    recipe = recipe_at("tiny data.corrections=corrections/fixes.jsonl")
    store.write("runs/old/recipe.json", recipe.model_dump_json().encode())
    read = make_spec(store, "distill", "old", 3, "sft", {"policy": "", "weak": "w"}).inputs
    return {
        "stage": stage_prefix("old", 2, "train-sft", "sft"),
        "job": f"{job.name} {job.label} {job.logs} {job_name(long)}",
        "inputs": " ".join(f"{k}={v.replace(str(ROOT), '…')}" for k, v in read.items()),
        "home": str(home()).replace(str(ROOT), "…"),
    }


def needs(store: FolderStore) -> Table:
    """Stages of a run of each pipeline, and the checkpoints and pools that the recipe needs."""
    found: Table = {}
    for text in ("tiny", "pelican_72b", "tiny loops=1 distill.endpoint=http://teacher/v1"):
        for name in PIPELINES:
            recipe = for_pipeline(name, recipe_at(text))
            needed = " ".join([*needed_models(recipe), *needed_pools(recipe)])
            found[f"{text}: {name}"] = f"{recipe.name} {expected_stages(recipe, name)} {needed}"
    return found


def shipped(store: FolderStore) -> Table:
    """What stages know the models and samples of the repository by: every file of theirs counts."""
    folders = [*ROOT.glob("models/*/"), *ROOT.glob("samples/*/")]
    return {f"{p.parent.name}/{p.name}": input_digest(store, str(p)) for p in folders}


def draws(store: FolderStore) -> Table:
    """Whatever is drawn depends on seeds, loops, names and numbers alone."""
    tiny = recipe_at("tiny seed=3")
    flipped = [i for i in range(40) if is_flipped(0.25, flip_seed(3, 2), "s00001", i)]
    return {
        "rollout": str(rollout_seed(phase_seed(3, 2, Phase.RL), "s00001", 5)),
        "train-rl": f"{seed_of(tiny, 2)} {schedule(7, 16, seed_of(tiny, 2))}",
        "flips": str(flipped),
        "judge": PROMPT_VERSION,
    }


def commands(store: FolderStore) -> Table:
    """Arguments in their order, then options; `=` takes a value, `?` may be left out, `!` may not."""

    def walk(command: Any, path: str) -> Iterator[tuple[str, str]]:
        inner = getattr(command, "commands", {})
        words = [_argument(p) for p in command.params if p.param_type_name == "argument"]
        words += sorted(_option(p) for p in command.params if p.param_type_name == "option")
        yield path, " ".join(words)
        for name, below in inner.items():
            yield from walk(below, f"{path} {name}")

    return dict(walk(get_command(app), "pelican"))


def _argument(given: Any) -> str:
    name = (given.metavar or given.name).upper()
    if given.required:
        return f"{name}…" if given.nargs < 0 else name
    return f"{name}?={given.default or ''}"


def _option(given: Any) -> str:
    names = "/".join([*given.opts, *given.secondary_opts])
    end = "!" if given.required else "…" if given.multiple else ""
    default = "" if given.default is None else given.default
    return names if given.is_flag else f"{names}={end}{default}"


def statuses(store: FolderStore) -> Table:
    """An error's exit status, and the error that a stage's status stands for."""
    found = {error.__name__: str(error.exit_code) for error in ERRORS}
    return found | {str(n): type(error_of(n, "")).__name__ for n in (1, 2, 3, 75, 77, 130, 137)}


def series(store: FolderStore) -> Table:
    """Kind, unit, moment, how processes become one, labels, buckets; the trigger's have fewer."""
    assert MEMORY.name in SERIES
    found: Table = {}
    for name, one in SERIES.items():
        buckets = f" {one.buckets}" if one.kind == "histogram" else ""
        labels = ",".join((*COMMON, *one.labels))
        found[name] = f"{one.kind} {one.unit} {one.moment} {one.across} {labels}{buckets}"
    for family in Metrics().registry.collect():
        used = {label for sample in family.samples for label in sample.labels}
        found[family.name] = " ".join([family.type, *sorted(used)])
    return found


def variables(store: FolderStore) -> Table:
    """Names of environment variables in the code, and those that the trigger makes of its settings."""
    folders = ("pelican", "pipelines", "components", "tiny")
    trees = [
        ast.parse(path.read_text())
        for folder in folders
        for path in sorted((ROOT / folder).rglob("*.py"))
    ]
    names = {
        node.value
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    own = {name for name in names if VARIABLE.fullmatch(name)} - {PREFIX, "S3_SECRET"}  # parts
    own |= {f"{PREFIX}{name.upper()}" for name in TriggerConfig.model_fields}
    return dict.fromkeys(sorted(own), "read")


def models(store: FolderStore) -> Table:
    """Fields of what is written as JSON or as rows; `?` may be left out."""
    return {
        model.__name__: " ".join(
            f"{field.alias or name}{'' if field.is_required() else '?'}"
            for name, field in model.model_fields.items()
        )
        for model in MODELS
    }


def columns(store: FolderStore) -> Table:
    return {
        name: ", ".join(f"{field.name} {field.type}" for field in schema)
        for name, schema in SCHEMAS.items()
    }


TABLES: tuple[Callable[[FolderStore], Table], ...] = (
    *(recipes, fingerprints, jobs, places, needs, shipped, draws),
    *(commands, statuses, series, variables, models, columns),
)


def changed(table: str, found: Table) -> dict[str, tuple[str | None, str | None]]:
    """What was recorded and what is found, where they differ."""
    was = RECORDED[table]
    names = sorted(was.keys() | found.keys())
    return {n: (was.get(n), found.get(n)) for n in names if was.get(n) != found.get(n)}


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.__name__)
def test_a_table_is_as_it_was(table: Callable[[FolderStore], Table], tmp_path: Path) -> None:
    assert changed(table.__name__, table(FolderStore(tmp_path / "store"))) == {}


def keys_of(tree: Any) -> str:
    """The keys of a JSON object, and in brackets those of its objects and of its lists' first."""
    if isinstance(tree, list):
        return f"[{keys_of(tree[0])}]" if tree and isinstance(tree[0], dict | list) else ""
    parts = []
    for name, value in tree.items():
        inner = keys_of(value) if isinstance(value, dict | list) else ""
        parts.append(f"{name}({inner})" if inner else name)
    return " ".join(parts)


def files(world: World) -> Table:
    """What a run of made stages leaves, by folder, and the keys of the run's own JSON.

    Its launchers, preflight and summary are real.
    """
    done = world.submit("--run", "made", overrides="loops=1")
    assert done.returncode == 0, done.stderr
    run = world.root / "store/runs/made"
    found: Table = {}
    for folder in [run, *sorted(path for path in run.rglob("*") if path.is_dir())]:
        name = folder.relative_to(run).as_posix()
        here = [path.name for path in sorted(folder.iterdir()) if path.is_file()]
        if here and not name.startswith("logs/kfp"):  # Kubeflow's own
            found[name] = " ".join(here)
    for path in sorted(run.glob("*.json")):
        found[path.name] = keys_of(json.loads(path.read_text()))
    return found


@pytest.mark.slow
def test_a_run_leaves_the_same_files_with_the_same_keys(world: World) -> None:
    assert changed("files", files(world)) == {}


def test_every_table_is_compared() -> None:
    assert {table.__name__ for table in TABLES} | {"files"} == set(RECORDED)
