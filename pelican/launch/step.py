"""What a pipeline component calls: parameters become a job, a launcher runs it, results come back."""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass, replace
from types import FrameType

from pelican.config import env
from pelican.config.stages import STAGES, Uses, value_of
from pelican.errors import DamagedError, InfrastructureError, ResourceError, UserInputError
from pelican.launch.job import Job, JobResult, Launcher, StageError
from pelican.launch.local import ProcessLauncher
from pelican.monitoring.progress import Event, emit
from pelican.monitoring.record import JobWatch, watched
from pelican.records import Phase
from pelican.runs.failure import record_failure
from pelican.runs.layout import earlier_inputs, pool_of, require_recipe, stage_prefix
from pelican.runs.restore import restore
from pelican.stages.fingerprint import finished_manifest
from pelican.stages.replace import set_aside
from pelican.stages.stage import CORRECTIONS, TOLD, StageName, StageSpec, corrections_place
from pelican.storage import open_store
from pelican.storage.manifests import Manifest, mend_manifest
from pelican.storage.store import MANIFEST, ObjectStore
from pelican.storage.verify import Recorded, find_record


@dataclass(frozen=True)
class StepResult:
    """What a component hands on: the stage's prefix and a few of its numbers."""

    output: str
    manifest: Manifest

    @property
    def checkpoint(self) -> str:
        return f"{self.output}/checkpoint"

    def count(self, name: str) -> int:
        return self.manifest.counts.get(name, 0)

    def metric(self, name: str, default: float | None = None) -> float:
        """A finite number. Raises StageError if the stage did not record it and none is given."""
        value = self.manifest.metrics.get(name, default)
        if value is None:
            raise StageError(
                f"the manifest of {self.output} records no {name!r}; delete that prefix of the store,"
                " so that the stage is done again"
            )
        return float(value)


def step(
    stage: StageName, store: str, run: str, loop: int, phase: str, **inputs: str
) -> StepResult:
    """Run one stage of a run, or find it done. Ends the process with one sentence on failure.

    `inputs`: name -> prefix of the stage that wrote it, or a checkpoint; an empty one is left out.
    """
    objects = open_store(store)
    with record_failure(objects, run, stage, loop, phase):
        spec = make_spec(objects, stage, run, loop, phase, inputs)
        return StepResult(spec.output, _run(objects, spec))


def make_spec(
    store: ObjectStore, stage: StageName, run: str, loop: int, phase: str, inputs: dict[str, str]
) -> StageSpec:
    """The specification of a stage, by the run's recipe.

    Args:
        store: With the recipe, which preflight wrote.
        stage: Its name.
        run: Its name.
        loop: Counts from 1; 0 is the base.
        phase: A value of `Phase`.
        inputs: Name to prefix of the stage that wrote it, or a checkpoint; an empty one is left out.

    Raises:
        UserInputError: The run has no recipe yet.
    """
    recipe = require_recipe(store, run)
    places = {name: where for name, where in inputs.items() if where}
    # A retraining's evaluations read the held-out sets of its own, in every phase.
    sealed = Phase(phase).sealed or recipe.retrain.data is not None
    for name, field in STAGES[stage].needs(recipe, sealed=sealed).items():
        of_recipe = env.resolve(value_of(recipe, field))
        places[name] = pool_of(recipe, run, stage, loop, field) or of_recipe
    if "pool" in places and (fixes := corrections_place(store, recipe)):
        places[CORRECTIONS] = fixes
    places |= earlier_inputs(recipe, run, stage, loop, phase)
    return StageSpec(
        stage=stage,
        store=store.uri,
        run=run,
        loop=loop,
        phase=Phase(phase),
        output=stage_prefix(run, loop, stage, phase),
        inputs=places,
        recipe=recipe,
    )


def make_job(spec: StageSpec) -> Job:
    """How many processes, and threads each, the recipe gives to a stage."""
    row, recipe = STAGES[spec.stage], spec.recipe
    processes = value_of(recipe, row.processes) if row.processes else 1
    threads = value_of(recipe, row.threads) if row.threads else 1
    return Job(spec, processes, threads)


def smaller_job(job: Job) -> Job | None:
    """The same job with half of the completions decoded together; None if that would not help.

    No completion depends on its batch. What training learns does, so its batch stays as it is.
    """
    config = job.spec.recipe.rollout
    size = env.batch_size(config.batch_size)
    generates = STAGES[job.spec.stage].uses is Uses.GENERATION
    if not generates or config.engine != "transformers" or size < 2:
        return None
    return replace(job, env={**job.env, env.BATCH_SIZE: str(size // 2)})


def make_launcher() -> Launcher:
    """The launcher that PELICAN_LAUNCHER names."""
    name = env.launcher_name()
    if name == "process":
        return ProcessLauncher()
    if name == "pytorchjob":
        from pelican.launch.pytorchjob import PyTorchJobLauncher

        return PyTorchJobLauncher()
    raise UserInputError(
        f"PELICAN_LAUNCHER={name!r} is not known; there are 'process' and 'pytorchjob'"
    )


def _run(store: ObjectStore, spec: StageSpec) -> Manifest:
    what: Event = {"stage": spec.stage, "loop": spec.loop, "phase": spec.phase.value}
    done = finished_manifest(store, spec)
    if done is not None:
        emit("event", {"event": "reused", **what, **_numbers(done)})
        return done
    launcher = make_launcher()

    def stop(number: int, frame: FrameType | None) -> None:
        launcher.cancel()
        raise SystemExit(128 + number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    emit("event", {"event": "start", **what})
    started = time.monotonic()
    with watched(spec.stage, spec.phase.value) as watch:
        try:
            result = _launch(launcher, make_job(spec), what, watch)
        except DamagedError:
            if not heal_inputs(store, spec):
                raise
            result = _launch(launcher, make_job(spec), what, watch)
        watch.succeeded(result.attempts)
    seconds = round(time.monotonic() - started, 1)
    numbers = _numbers(result.manifest) | {"seconds": seconds, "attempts": result.attempts}
    if env.launcher_name() != "process":
        numbers["beyond"] = round(seconds - result.manifest.seconds, 1)
    emit("event", {"event": "done", **what, **numbers})
    for sentence in result.manifest.notes.get(TOLD, ()):
        _tell(spec.stage, sentence)
    return result.manifest


def heal_inputs(store: ObjectStore, spec: StageSpec) -> bool:
    """`heal_place` for what a stage reads of its store; whether anything was damaged."""
    places = [at for at in spec.inputs.values() if "://" not in at and not at.startswith("/")]
    return any([heal_place(store, spec.run, spec.stage, where) for where in places])


def heal_place(store: ObjectStore, run: str, reader: str, where: str) -> bool:
    """Put whole bytes in the place of damaged ones at or below `where`; whether there were any.

    Whole copies come first. Where there is none, the stage that wrote them is done again; what others
    made from it while it was whole stays valid.

    Args:
        store: where the run lies.
        run: which reads the place.
        reader: the stage or step that does, for the events.
        where: a key or prefix of the store.

    Raises:
        DamagedError: a registered model is damaged, and there is no copy of it.
        InfrastructureError: what is damaged is made again when the pipeline is started again.
    """
    try:
        recorded = find_record(store, where)
    except DamagedError as error:
        raise InfrastructureError(str(error)) from None
    if recorded is None:
        return False
    mended, left = restore(store, recorded)
    if recorded.manifest is not None and mend_manifest(store, recorded.prefix):
        mended.append(f"{recorded.prefix}/{MANIFEST}")
    for key in mended:
        _tell(reader, f"{key} was damaged and is restored from a whole copy")
    if left:
        _redo(store, run, reader, recorded, left)
    return bool(mended or left)


def _redo(
    store: ObjectStore, run: str, reader: str, recorded: Recorded, damaged: list[str]
) -> None:
    """Make again what has no whole copy; the damaged generation stands aside meanwhile."""
    more = f" (and {len(damaged) - 1} more)" if len(damaged) > 1 else ""
    what = f"{damaged[0]}{more} is damaged and has no whole copy"
    done = recorded.manifest
    if done is None or done.run != run:
        raise DamagedError(f"{what}; restore it from a backup of the store")
    set_aside(store, recorded.prefix)
    if done.stage not in STAGES:  # a step of a retraining, which its pipeline runs
        raise InfrastructureError(f"{what}; it stands aside, and the same command makes it again")
    _tell(reader, f"{what}: {done.stage} of loop {done.loop} is done again")
    recipe = require_recipe(store, run)
    _run(store, StageSpec.of_finished(store, recorded.prefix, done, recipe))


def _tell(reader: str, message: str) -> None:
    emit("event", {"event": "told", "stage": reader, "message": message})


def _launch(launcher: Launcher, job: Job, what: Event, watch: JobWatch) -> JobResult:
    """Run the job; once more with a smaller batch if memory ran out and that may help."""

    def follow(event: Event) -> None:
        watch.working()
        emit("progress", event)

    try:
        return launcher.run(job, follow)
    except ResourceError:
        smaller = smaller_job(job)
        if smaller is None:
            raise
    size = smaller.env[env.BATCH_SIZE]
    emit("event", {"event": "smaller", **what, "batch_size": int(size)})
    result = launcher.run(smaller, follow)
    return replace(result, attempts=result.attempts + 1)


def _numbers(manifest: Manifest) -> Event:
    return {
        "seconds": round(manifest.seconds, 1),
        "counts": manifest.counts,
        "metrics": manifest.metrics,
    }
