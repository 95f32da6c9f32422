"""The work of `pelican submit` and `retrain`: start or continue a run, follow it, say how it ended.

The graph that it starts (`pipelines/`) calls one component per stage, such as `components/train_rl.py`.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from pelican.base.disk import explain_disk
from pelican.base.files import run_alone
from pelican.base.process import OWNER, PARENT, unique_pid
from pelican.config import env
from pelican.config.overrides import nearest
from pelican.config.presets import PIPELINES, find_recipe, for_pipeline
from pelican.config.recipe import Recipe
from pelican.config.stages import STAGES
from pelican.errors import InfrastructureError, PelicanError, UserInputError
from pelican.experiments import (
    ABLATIONS,
    BASE,
    NOTHING,
    TAG,
    VARIANTS,
    Variant,
    around,
    make_command,
    rewrite,
    run_name,
    table,
)
from pelican.launch.job import CancelledError, choose, error_of
from pelican.monitoring.progress import View, open_view
from pelican.retrain.plan import plan_of
from pelican.retrain.records import Verdict, read_verdict
from pelican.runs.layout import (
    CANCELLED,
    FAILURE,
    RUN,
    SUMMARY,
    Submission,
    check_run_name,
    expected_stages,
    list_runs,
    manifests,
    read_failure,
    read_recipe,
    read_submission,
    run_lock,
    run_prefix,
    state,
)
from pelican.runs.outcome import closing_words, show
from pelican.runs.preflight import check_machine, check_places, check_same_recipe
from pelican.runs.records import Failure, Summary
from pelican.storage import open_store
from pelican.storage.manifests import now
from pelican.storage.publish import publish
from pelican.storage.reading import read_record, tell
from pelican.storage.store import ObjectStore

# `pelican submit`: name the run or continue it, run the pipeline, show how it goes, print scores.

END_S = 10.0  # for the pipeline to end its stages after Ctrl-C


def submit_run(
    pipeline: str,
    address: str,
    overrides: Sequence[str],
    run: str | None,
    store: str | None,
    launcher: str = "auto",
    wait: bool = False,
    redo: bool = False,
) -> None:
    """Run a pipeline to its end. Raises PelicanError with one sentence if it fails."""
    env.check()
    recipe = for_pipeline(pipeline, find_recipe(address, overrides))
    uri = env.store_uri(store)
    chosen, _ = choose(launcher, uri)
    objects = open_store(uri)
    objects.probe()
    recipe = as_kept(objects, recipe, chosen)
    if chosen == "local":
        check_machine(recipe)
        check_places(objects, recipe)
    asked = Submission(
        run="-",
        pipeline=pipeline,
        address=address,
        overrides=list(overrides),
        recipe=recipe.digest(),
        submitted=now(),
    )
    name = choose_run(objects, asked, recipe, run, redo)
    with run_alone(run_lock(objects, name), f"run {name!r}"):
        record = asked.model_copy(update={"run": name}).model_dump_json(indent=1)
        kept = read_submission(objects, name, tell)
        whole = kept is not None and kept.pipeline == pipeline
        objects.write(f"{run_prefix(name)}/{RUN}", record.encode(), if_absent=whole)
        objects.delete(f"{run_prefix(name)}/{CANCELLED}")
        if chosen == "kubeflow":
            from pipelines.run import submit_run

            kfp_run = submit_run(objects, name, pipeline, recipe, redo)
            if wait:
                wait_in_kubeflow(objects, name, kfp_run, expected_stages(recipe, pipeline))
        else:
            run_here(objects, name, pipeline, recipe, chosen, redo)


def as_kept(store: ObjectStore, recipe: Recipe, chosen: str) -> Recipe:
    """The recipe as a run of this launcher keeps it: for pods, with what it names in the store."""
    return recipe if chosen == "local" else publish(store, recipe)


def choose_run(
    store: ObjectStore, asked: Submission, recipe: Recipe, given: str | None, redo: bool = False
) -> str:
    """The run's name, which is also printed: `given`, the newest unfinished of this recipe, or a new one."""
    if given:
        check_run_name(given)
        before = read_submission(store, given, tell)
        stored = read_recipe(store, given, instead=recipe)
        other = before.pipeline if before is not None else asked.pipeline
        if other != asked.pipeline and other in PIPELINES:  # no other name was ever written
            raise UserInputError(
                f"run {given!r} is of pipeline {other!r}, not {asked.pipeline!r}; "
                "choose another run name"
            )
        if stored is not None and not redo:
            check_same_recipe(given, stored, recipe)
        print(f"run {given} {'continues' if before else 'starts'}", flush=True)
        return given
    for before in list_runs(store):
        same = before.recipe == asked.recipe and before.pipeline == asked.pipeline
        if not same or state(store, before.run) == "complete":
            continue
        print(
            f"run {before.run} was not finished and continues; RUN=name starts another",
            flush=True,
        )
        return before.run
    name = new_run_name(store, recipe)
    print(f"run {name} starts", flush=True)
    return name


def new_run_name(store: ObjectStore, recipe: Recipe) -> str:
    """Recipe, date, digest: `tiny-20261121-c879da`; short enough for the names of jobs."""
    short = recipe.name.replace("_", "-")[:22].strip("-")
    base = f"{short}-{time.strftime('%Y%m%d')}-{recipe.digest()[:6]}"
    name, number = base, 1
    while store.exists(run_prefix(name)):
        number += 1
        name = f"{base}-{number}"
    return name


def run_here(
    store: ObjectStore,
    run: str,
    pipeline: str,
    recipe: Recipe,
    launcher: str = "local",
    redo: bool = False,
) -> None:
    """Start the pipeline as a process of its own, follow it, and print what came out."""
    logs = store.local_root(f"{run_prefix(run)}/logs")
    recipe_file = logs / "submitted.json"
    recipe_file.write_text(recipe.model_dump_json(indent=1))
    command = [sys.executable, "-m", "pipelines.run", pipeline, "--store", store.uri]
    command += ["--run", run, "--recipe", str(recipe_file), "--scratch", str(logs / "kfp")]
    command += ["--redo"] if redo else []
    store.delete(f"{run_prefix(run)}/{FAILURE}")
    started = time.monotonic()
    with open_view(expected_stages(recipe, pipeline)) as view:
        tail: deque[str] = deque(maxlen=200)
        code = _follow(command, logs / "pipeline.log", view, launcher, tail)
    failure = read_failure(store, run, tell)
    if failure is None and code != 0 and view.progress.failure is not None:
        failure = Failure.model_validate(view.progress.failure)
    print_result(store, run, time.monotonic() - started)
    if failure is not None:
        raise error_from(failure)
    if code != 0:
        raise _unsaid(code, tail, logs / "pipeline.log")
    if state_after(store, run) != "complete":
        raise PelicanError(f"run {run} is not complete; see {logs / 'pipeline.log'}")


def _unsaid(code: int, tail: Sequence[str], log_file: Path) -> PelicanError:
    """Why a pipeline ended of which no step said why: its last lines tell, or it was killed."""
    text = "\n".join(tail)
    if (meant := explain_disk(RuntimeError(text))) is not None:
        return meant
    if code < 0:
        killed = f"the pipeline was killed by {signal.Signals(-code).name}"
        return InfrastructureError(f"{killed}; the same command continues the run")
    if code == 1 and (_TRACEBACK not in text or _INTERRUPTED in text):
        return InfrastructureError(
            f"a step of the pipeline was ended from outside (log: {log_file});"
            " the same command continues the run"
        )
    return error_of(code, f"the pipeline ended with status {code}; see {log_file}")


_TRACEBACK = "Traceback (most recent call last)"
_INTERRUPTED = "KeyboardInterrupt"  # of a step that had not begun


def _follow(command: list[str], log_file: Path, view: View, launcher: str, tail: deque[str]) -> int:
    """Run `command`, show its events, keep the rest of its log. Ctrl-C and SIGTERM end it whole.

    Args:
        command: of the pipeline.
        log_file: is appended to.
        view: of the run's progress.
        launcher: of the stages.
        tail: gets the last lines that are no events.
    """
    me = os.getpid()
    environment = {
        **env.read_all(),
        OWNER: unique_pid(me),
        PARENT: str(me),
        "PYTHONUNBUFFERED": "1",
    }
    environment["PELICAN_LAUNCHER"] = "process" if launcher == "local" else launcher
    if launcher != "local":
        environment[env.WARM] = "off"  # the stages run elsewhere
    # The components import pelican, wherever the command was typed.
    environment["PYTHONPATH"] = env.python_path()
    stopped: list[int] = []

    def stop(number: int, frame: object) -> None:
        stopped.append(number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    process = subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        with log_file.open("a", encoding="utf-8") as log, selectors.DefaultSelector() as selector:
            os.set_blocking(process.stdout.fileno(), False)
            selector.register(process.stdout, selectors.EVENT_READ)
            pending = b""
            while True:
                selector.select(1.0)
                chunk = process.stdout.read()
                *lines, pending = (pending + (chunk or b"")).split(b"\n")
                for line in lines:
                    text = line.decode("utf-8", "replace")
                    if not view.line(text):
                        log.write(text + "\n")
                        tail.append(text)
                log.flush()
                view.tick()
                if stopped:
                    view.say("stopping; the same command continues the run")
                    _end(process)
                    raise CancelledError("the run was stopped; the same command continues it")
                if chunk == b"" or process.poll() is not None:
                    break
        return process.wait()
    finally:
        _end(process)
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(process: subprocess.Popen[bytes]) -> None:
    """The components end their stages at SIGTERM; what is left after a while is killed."""
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(END_S)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


# `pelican submit --wait`: follow a run that Kubeflow drives, a line for each stage that ends.

LOOK_S = 15.0  # between two looks at the store


def wait_in_kubeflow(store: ObjectStore, run: str, kfp_run: str, stages: int) -> None:
    """Until Kubeflow's run has ended, and its scores. Raises what the failed step said.

    An error of Kubeflow's API ends the wait, not the run.
    """
    from pelican.launch.kfp import Kfp, RunEndedError, wait_for

    kfp, started, failed = Kfp(), time.monotonic(), None
    with open_view(stages) as view:
        ended = EndedStages(store, run, view)
        try:
            wait_for(kfp, kfp_run, ended.look_now_and_then)
        except (RunEndedError, CancelledError) as error:
            failed = error
        ended.look()
    if isinstance(failed, CancelledError):  # in Kubeflow's UI, perhaps: then nobody has marked it
        mark = {"cancelled": now().isoformat()}
        store.write(f"{run_prefix(run)}/{CANCELLED}", json.dumps(mark).encode(), if_absent=True)
        raise failed
    print_result(store, run, time.monotonic() - started)
    if failed is not None:
        failure = read_failure(store, run, tell)
        raise failed if failure is None else error_from(failure)
    if state_after(store, run) != "complete":
        raise PelicanError(f"run {run} is not complete: {kfp.link(kfp_run)}")


class EndedStages:
    """Tells each stage once for each time that it was made, when the store has its manifest."""

    def __init__(self, store: ObjectStore, run: str, view: View) -> None:
        self._store, self._run, self._view = store, run, view
        self._looked_at = -LOOK_S
        self._ended: dict[str, datetime] | None = None  # when each ended; None before a first look
        self._told: set[str] = set()

    def look_now_and_then(self) -> None:
        """At most every LOOK_S: a look reads all manifests."""
        if time.monotonic() - self._looked_at >= LOOK_S:
            self.look()
            self._looked_at = time.monotonic()

    def _tell(self, error: PelicanError) -> None:
        if str(error) not in self._told:
            self._told.add(str(error))
            self._view.say(str(error).splitlines()[0])

    def look(self) -> None:
        """Show the stages that ended since the last look.

        What can't be read now is mentioned once, because the run goes on without this process.
        """
        try:
            found = manifests(self._store, self._run, self._tell)
        except PelicanError as error:
            self._tell(error)
            return
        first = self._ended is None
        ended = self._ended = self._ended or {}
        for manifest in found:
            name = f"{manifest.loop} {manifest.phase} {manifest.stage}"
            if ended.get(name) == manifest.finished:
                continue
            ended[name] = manifest.finished
            self._view.progress.finished = len(ended) - 1  # one that was made again counts once
            self._view.event(
                {
                    "event": "reused" if first else "done",
                    "stage": manifest.stage,
                    "loop": manifest.loop,
                    "phase": manifest.phase,
                    "seconds": manifest.seconds,
                    "metrics": manifest.metrics,
                }
            )


# How a run ended, for the person who submitted it: its scores, or its failure.


def state_after(store: ObjectStore, run: str) -> str:
    """The run's state by its summary, because `state` says running while we hold the run's lock."""
    summary = read_record(store, f"{run_prefix(run)}/{SUMMARY}", Summary, tell)
    return summary.state if summary else "unfinished"


def error_from(failure: Failure) -> PelicanError:
    """A step's failure, as the step wrote it down, to who submitted the run: the same exit status."""
    where = f"{failure.stage}, loop {failure.loop} {failure.phase}"
    if failure.stage not in STAGES:  # preflight, or a step of a retraining
        where = failure.stage
    return error_of(failure.exit_code or 1, f"{where}: {failure.message}")


def print_result(store: ObjectStore, run: str, took_s: float) -> None:
    """The table of scores, the run's name, the report's path."""
    from pelican.cli.output import score_table
    from pelican.monitoring.progress import duration

    tree = show(store, run)
    if tree["scores"]:
        score_table(tree)
    for sentence in closing_words(tree):
        print(sentence)
    print(f"run     {run} ({duration(took_s)})")
    print(f"report  {tree['report'] or 'not written'}", flush=True)


# `pelican retrain --data VERSION --from MODEL`: one call that any trigger may make, and make again.

REASONS = 6  # of a verdict, shown


def submit_retraining(
    data: str | None,
    model: str | None,
    address: str,
    overrides: Sequence[str],
    store: str | None,
    launcher: str,
    redo: bool = False,
) -> None:
    """Retrain `model` on `data`, once: the same call again continues the run, or tells its verdict."""
    if not data or not model:
        raise UserInputError(
            "a retraining needs new data and a model to go on from:"
            " `pelican retrain --data VERSION --from MODEL`; with make: DATA=… FROM=…"
        )
    objects = open_store(env.store_uri(store))
    plan = plan_of(objects, data, model, address, overrides)
    if plan.learned:
        print(f"{plan.parent} has learned from {plan.data} already; nothing to do")
        return
    verdict = read_verdict(objects, plan.run)
    now = state(objects, plan.run)
    if now == "running":
        print(f"run {plan.run} is under way; `pelican show {plan.run}` tells how far it is")
        return
    if verdict is None or now != "complete":
        # A run that nobody follows to its end would be taken for lost.
        given = plan.overrides, plan.run, store, launcher
        submit_run("retrain", address, *given, wait=True, redo=redo)
        verdict = read_verdict(objects, plan.run)
    else:
        print(f"run {plan.run} is complete")
    from pelican.cli.weaknesses import print_matched

    if verdict is None:
        raise PelicanError(f"run {plan.run} ended without a verdict; `pelican show {plan.run}`")
    print_verdict(verdict)
    print_matched(objects, plan.run)


def print_verdict(verdict: Verdict) -> None:
    """Print whether the model was promoted, and why."""
    said = {
        "promoted": f"{verdict.version} is current",
        "refused": f"refused; {verdict.parent} stays current",
        "no weakness": f"nothing to learn; {verdict.parent} stays current",
        "overtaken": f"{verdict.version} passed, but another version became current meanwhile",
    }
    print(f"verdict {said[verdict.outcome]}")
    for reason in verdict.reasons[:REASONS]:
        print(f"        {reason}")
    if len(verdict.reasons) > REASONS:
        print(f"        and {len(verdict.reasons) - REASONS} more; `pelican models show` has them")


# `pelican submit --pipeline ablations`: a set of runs, then their table in docs/results.md.

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
    chosen = _choose_variants(variants)
    for label, variant in chosen.items():
        for seed in numbers:
            check_run_name(run_name(label, seed, tag))
            find_recipe(variant.recipe, [variant.settings(seed, more)])
    where = output or env.home() / RESULTS
    section = SECTION if tag == TAG else f"{SECTION} {tag}"
    around(where, section)
    try:
        failed = run_all(chosen, numbers, tag, more, store=store, launcher=launcher)
    finally:
        lines = table(open_store(env.store_uri(store)), tag)
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
    """Submit what is not complete, one after the other. Gives the runs that failed, after printing them.

    Stages that an earlier run has done are taken over. Raises CancelledError if a run was stopped.
    """
    env.set_default(env.REUSE, "on")
    objects, failed = open_store(env.store_uri(store)), []
    for seed in seeds:
        for label, variant in variants.items():
            name, overrides = run_name(label, seed, tag), variant.settings(seed, more)
            try:
                if _complete(objects, name, variant, overrides, launcher):
                    print(f"# {name} is complete", flush=True)
                    continue
                print(f"# {make_command(variant, name, seed, more)}", flush=True)
                submit_run(
                    "metaloop", variant.recipe, [overrides], name, store, launcher, wait=True
                )
            except CancelledError:
                raise CancelledError("the set was stopped; the same command continues it") from None
            except PelicanError as error:
                print(f"# {name} failed: {error}", flush=True)
                failed.append(name)
    return failed


def _complete(
    store: ObjectStore, name: str, variant: Variant, overrides: str, launcher: str
) -> bool:
    """Whether the run `name` is complete, so that it need not be submitted again.

    Raises:
        UserInputError: A run of that name has another recipe.
    """
    stored = read_recipe(store, name)
    if stored is None:
        return False
    asked = find_recipe(variant.recipe, [overrides])
    chosen, _ = choose(launcher, store.uri)
    check_same_recipe(name, stored, as_kept(store, asked, chosen))
    return state(store, name) == "complete"


def _choose_variants(names: str | None) -> dict[str, Variant]:
    if not names:
        return ABLATIONS
    chosen = [name for name in names.replace(" ", "").split(",") if name]
    for name in chosen:
        if name not in VARIANTS:
            raise UserInputError(f"there is no ablation {name!r}{nearest(name, VARIANTS)}")
    return {name: VARIANTS[name] for name in VARIANTS if name in chosen}


def _seeds(text: str) -> list[int]:
    try:
        return list(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        raise UserInputError(f"--seeds is {text!r}; give whole numbers, such as 0,1,2") from None
