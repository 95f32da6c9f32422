"""What a run has written so far, read for people: whole, unfinished or failed alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from pelican.base.model import Frozen
from pelican.config.stages import STAGES
from pelican.data.frames import read_frame
from pelican.errors import DamagedError
from pelican.evaluation.metrics import Comparison, Summary, compare, read_results
from pelican.records import Phase
from pelican.runs.layout import (
    PHASES,
    Offer,
    offer_of,
    place_of,
    read_recipe,
    read_recipe_tree,
    read_submission,
    require_run,
    run_prefix,
)
from pelican.runs.outcome import flops, labels, rl_endings, tokens
from pelican.runs.records import Tree
from pelican.storage import open_store
from pelican.storage.digests import file_digests
from pelican.storage.manifests import Manifest, read_manifest
from pelican.storage.reading import OnDamage, Record, damaged, pass_over, read_record
from pelican.storage.store import ObjectStore

# What a run cost: wall clock, GPU and CPU hours, tokens. Read from the stages' manifests.

RESOURCES = "resources"  # of a manifest's notes; see pelican.stages.resources


class Cost(Frozen):
    """`gpu_hours`, `cpu_hours` and `flops` are None if a stage did not note what it used."""

    seconds: float
    gpu_hours: float | None
    cpu_hours: float | None
    generated_tokens: int
    trained_tokens: int
    evaluation_tokens: int
    flops: float | None
    teacher_calls: int
    labels: int


def cost_of(run: Run) -> Cost:
    """The cost of all finished stages, without the work that restarts lost."""
    return Cost(
        seconds=seconds(run),
        gpu_hours=_hours(run, "gpu_seconds"),
        cpu_hours=_hours(run, "cpu_seconds"),
        generated_tokens=tokens(_finished(run), "generated"),
        trained_tokens=tokens(_finished(run), "trained"),
        evaluation_tokens=sum(_counts(stage).get("tokens", 0) for stage in run.finished("eval")),
        flops=flops(_finished(run)),
        teacher_calls=sum(
            _counts(stage).get("teacher_calls", 0) for stage in run.finished("distill")
        ),
        labels=labels(_finished(run)),
    )


def _hours(run: Run, name: str) -> float | None:
    spent: list[Any] = []
    for stage in run.stages:
        if stage.manifest is not None:
            noted = stage.manifest.notes.get(RESOURCES)
            spent.append(noted.get(name) if isinstance(noted, dict) else None)
    known = [float(value) for value in spent if isinstance(value, int | float)]
    return sum(known) / 3600 if known and len(known) == len(spent) else None


def _finished(run: Run) -> Iterator[Manifest]:
    return (stage.manifest for stage in run.stages if stage.manifest)


def seconds(run: Run) -> float:
    """Time spent in all finished stages."""
    return sum(stage.manifest.seconds for stage in run.stages if stage.manifest)


def _counts(stage: StageRun) -> dict[str, int]:
    return stage.manifest.counts if stage.manifest else {}


# Short labels for runs, unique even if they lie in several stores.

_PART = "/runs/"


def open_address(address: str, default: ObjectStore) -> Run:
    """A run by its name in `default`, or by its address in another store: `<store>/runs/<run>`.

    Raises UserInputError if there is none.
    """
    store, separator, name = address.rstrip("/").rpartition(_PART)
    if not separator:
        return open_run(default, address)
    return open_run(open_store(store), name)


def label_runs(runs: Sequence[Run]) -> dict[str, Run]:
    """Each run by its name; by name and store where two stores have a run of that name."""
    count = Counter(run.name for run in runs)
    found: dict[str, Run] = {}
    for run in runs:
        label = run.name if count[run.name] == 1 else f"{run.name} in {run.store.uri}"
        found.setdefault(label, run)
    return found


# What a run has written so far, read for people: whole, unfinished or failed alike.

RESAMPLES = 2000


@dataclass(frozen=True, eq=False)
class StageRun:
    """One stage of a run; `manifest` is None while it is not finished."""

    prefix: str
    loop: int
    name: str
    phase: str
    manifest: Manifest | None

    @property
    def order(self) -> tuple[int, int, int]:
        """Where the stage stands in the metaloop."""
        names = list(STAGES)
        place = names.index(self.name) if self.name in names else len(names)
        return (*place_of(self.loop, self.phase), place)


def label_policy(loop: int, phase: str) -> str:
    """`base`, or `loop 2 SFT`."""
    return f"loop {loop} {phase.upper()}" if loop else "base"


@dataclass(frozen=True)
class Evaluation:
    """One finished eval stage; `of`: the label of the policy that the sealed set was read by."""

    loop: int
    phase: str
    prefix: str
    summary: Summary
    path: Path
    of: str = ""

    @cached_property
    def results(self) -> pl.DataFrame:
        return read_results(self.path)

    @property
    def label(self) -> str:
        return self.of or label_policy(self.loop, self.phase)


@dataclass
class Run:
    """The files of one run. Everything is optional: a missing file is a missing section.

    So is one whose bytes are not those that its stage wrote, and `damaged` says so.
    """

    store: ObjectStore
    name: str
    stages: list[StageRun] = field(default_factory=list)
    damaged: list[DamagedError] = field(default_factory=list)

    @property
    def prefix(self) -> str:
        return run_prefix(self.name)

    @cached_property
    def recipe(self) -> dict[str, Any]:
        try:
            return read_recipe_tree(self.store, self.name) or {}
        except DamagedError as error:
            self.note(error)
            return {}

    @cached_property
    def pipeline(self) -> str:
        """What was submitted, such as `metaloop`; empty if that is not known."""
        submission = read_submission(self.store, self.name, self.note)
        return submission.pipeline if submission else ""

    @property
    def last_phase(self) -> str:
        """The phase that ends a loop, whose evaluation decides whether there is another."""
        sft = self.recipe.get("sft", {}).get("enabled", True) and self.pipeline != "rl_only"
        return "sft" if sft else "rl"

    @property
    def has_dev(self) -> bool:
        """Whether the gates read a pool of their own, so that the sealed set is read at the end."""
        return bool(self.recipe.get("data", {}).get("dev"))

    @cached_property
    def rl_endings(self) -> list[str]:
        """For each loop why its RL phase ended, as a sentence."""
        recipe = read_recipe(self.store, self.name, pass_over)
        return rl_endings((stage.manifest for stage in self.stages if stage.manifest), recipe)

    @cached_property
    def seed(self) -> int:
        return int(self.recipe.get("seed", 0))

    @cached_property
    def evaluations(self) -> list[Evaluation]:
        """The finished evaluations that gates read, base first, in the order of training."""
        return [e for e in self._evaluated if not Phase(e.phase).sealed]

    @cached_property
    def _evaluated(self) -> list[Evaluation]:
        found = []
        for stage in self.finished("eval"):
            summary = self.record(f"{stage.prefix}/summary.json", Summary)
            path = self.file(f"{stage.prefix}/results.parquet")
            if summary is None or path is None:
                continue
            evaluation = Evaluation(stage.loop, stage.phase, stage.prefix, summary, path)
            try:
                assert len(evaluation.results.columns)  # reads them
            except DamagedError as error:
                self.note(error)
                continue
            found.append(evaluation)
        return found

    @cached_property
    def offer(self) -> Offer:
        """The evaluation of the policy that the run offers, and of one that its gate refused."""
        return offer_of(
            (stage.manifest for stage in self.stages if stage.manifest), self.last_phase
        )

    @cached_property
    def sealed(self) -> tuple[Evaluation, Evaluation] | None:
        """The base and the policy on offer on the sealed set, if the run has a dev pool and read it."""
        looks = {e.phase: e for e in self._evaluated if Phase(e.phase).sealed}
        if len(looks) < 2:
            return None
        offered = self.offer.evaluation
        of = label_policy(offered.loop, offered.phase) if offered else "base"
        return replace(looks["start"], of="base"), replace(looks["end"], of=of)

    @property
    def base(self) -> Evaluation | None:
        """The evaluation of the policy before loop 1: on the sealed set, once it was read."""
        if self.sealed is not None:
            return self.sealed[0]
        return next((e for e in self.evaluations if e.phase == "base"), None)

    @property
    def final(self) -> Evaluation | None:
        """That of the policy on offer, or None if nothing was trained yet: sealed, as the base's.

        It is the base's own where no policy after it passed its gate.
        """
        if self.sealed is not None:
            return self.sealed[1]
        offered = self.offer.evaluation
        if offered is None or all(e.phase == "base" for e in self.evaluations):
            return None
        where = (offered.loop, offered.phase)
        return next((e for e in self.evaluations if (e.loop, e.phase) == where), None)

    @property
    def change(self) -> Comparison | None:
        """From the base to the policy on offer; None if that is the base itself."""
        if self.base is None or self.final is None or self.final.label == self.base.label:
            return None
        return self.compare_evaluations(self.base, self.final)

    def steps(self) -> list[tuple[Evaluation, Evaluation]]:
        """Each evaluation with the one before it."""
        return list(zip(self.evaluations, self.evaluations[1:], strict=False))

    def compare_evaluations(self, before: Evaluation, after: Evaluation) -> Comparison:
        """Paired differences of two evaluations of this run."""
        return compare(
            before.results,
            after.results,
            to=before.prefix,
            resamples=RESAMPLES,
            seed=self.seed,
        )

    def finished(self, name: str) -> list[StageRun]:
        """The finished stages of one name, in order."""
        return [stage for stage in self.stages if stage.name == name and stage.manifest]

    def tables(
        self, stage: str, file: str, columns: Iterable[str] = ()
    ) -> dict[StageRun, pl.DataFrame]:
        """A Parquet file of every finished stage of one name that has it, with these columns."""
        found: dict[StageRun, pl.DataFrame] = {}
        for one in self.finished(stage):
            frame = self.table(f"{one.prefix}/{file}")
            if frame is not None and set(columns) <= set(frame.columns):
                found[one] = frame
        return found

    def files(self, prefix: str, pattern: str) -> list[Path]:
        """Local paths of the files below `prefix` whose names match `pattern`, sorted by key.

        They are downloaded first if the store is remote.
        """
        keys = [
            key
            for key in self.store.keys(prefix)
            if fnmatch(key.removeprefix(f"{prefix}/"), pattern)
        ]
        return [path for key in keys if (path := self.file(key)) is not None]

    def table(self, key: str) -> pl.DataFrame | None:
        """A Parquet file of the store, or None if it is absent or damaged."""
        path = self.file(key)
        try:
            return None if path is None else read_frame(path)
        except DamagedError as error:
            self.note(error)
            return None

    def file(self, key: str) -> Path | None:
        """A file of the store, here if need be by download; None if it is absent or damaged."""
        if key not in self._files:
            self._files[key] = self._whole(key)
        return self._files[key]

    def _whole(self, key: str) -> Path | None:
        try:
            path, sha256 = self.store.local(key), self._digests.get(key)
            if sha256 is not None and file_digests([path])[path] != sha256:
                raise damaged(self.store, key, "its bytes are not those that its stage wrote")
        except KeyError:
            return None
        except DamagedError as error:
            self.note(error)
            return None
        return path

    @cached_property
    def _files(self) -> dict[str, Path | None]:
        return {}

    @cached_property
    def _digests(self) -> dict[str, str]:
        """The SHA-256 of each file of a finished stage, by its key."""
        return {
            f"{stage.prefix}/{output.path}": output.sha256
            for stage in self.stages
            if stage.manifest
            for output in stage.manifest.outputs
        }

    def record(self, key: str, kind: type[Record]) -> Record | None:
        """A JSON object of the store; None if it is absent or damaged."""
        return read_record(self.store, key, kind, self.note, sha256=self._digests.get(key))

    def tree(self, key: str) -> dict[str, Any]:
        """A JSON object of which nothing but its form is known; empty if it is absent or damaged."""
        found = self.record(key, Tree)
        return found.root if found else {}

    def note(self, error: DamagedError) -> None:
        """Remember what was left out, once."""
        if str(error) not in map(str, self.damaged):
            self.damaged.append(error)


def open_run(store: ObjectStore, name: str) -> Run:
    """The run `name`. Raises UserInputError if there is none."""
    require_run(store, name)
    keys = store.keys(run_prefix(name))
    places = sorted({"/".join(key.split("/")[:4]) for key in keys if key.count("/") >= 4})
    errors: list[DamagedError] = []
    found = [_stage(store, place, errors.append) for place in places]
    stages = sorted((stage for stage in found if stage), key=lambda stage: stage.order)
    return Run(store, name, stages, errors)


def _stage(store: ObjectStore, prefix: str, on_damage: OnDamage) -> StageRun | None:
    """A stage by its prefix `runs/<run>/loop-<k>/<stage>-<phase>`."""
    loop, place = prefix.split("/")[2:4]
    name, _, phase = place.rpartition("-")
    if not loop.startswith("loop-") or not loop[5:].isdigit() or phase not in PHASES:
        return None
    try:
        manifest = read_manifest(store, prefix)
    except DamagedError as error:
        on_damage(error)
        manifest = None
    if manifest is not None:
        name = manifest.stage
    return StageRun(prefix, int(loop[5:]), name, phase, manifest)


def kind_of(run: Run) -> str:
    """`RL only`, `SFT only` or `RL and SFT`, by what the run's pipeline and recipe let it do."""
    rl = run.recipe.get("rl", {}).get("enabled", True) and run.pipeline != "sft_only"
    sft = run.recipe.get("sft", {}).get("enabled", True) and run.pipeline != "rl_only"
    return "RL and SFT" if rl and sft else "RL only" if rl else "SFT only"
