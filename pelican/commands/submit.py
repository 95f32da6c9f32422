"""`pelican submit`: name the run or continue it, run the pipeline, show how it goes, print scores."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from pelican import settings
from pelican.commands.ended import error_told, print_result, state_after
from pelican.errors import PelicanError, UserInputError
from pelican.launch.base import CancelledError, error_of
from pelican.launch.choice import choose
from pelican.leash import OWNER, PARENT, identity
from pelican.lock import exclusive
from pelican.preflight import check_places, check_same_recipe
from pelican.recipe import Recipe
from pelican.recipes import find_recipe, for_pipeline
from pelican.runs import (
    CANCELLED,
    FAILURE,
    RUN,
    Submission,
    check_run_name,
    expected_stages,
    list_runs,
    read_json,
    read_recipe,
    read_submission,
    run_lock,
    run_prefix,
    state,
)
from pelican.storage.manifests import now
from pelican.storage.objects import ObjectStore, open_store
from pelican.storage.publish import publish
from pelican.telemetry.view import View, open_view

END_S = 10.0  # for the pipeline to end its stages after Ctrl-C


def submit(
    pipeline: str,
    address: str,
    overrides: Sequence[str],
    run: str | None,
    store: str | None,
    launcher: str = "auto",
    wait: bool = False,
) -> None:
    """Run a pipeline to its end. Raises PelicanError with one sentence if it fails."""
    recipe = for_pipeline(pipeline, find_recipe(address, overrides))
    uri = settings.store_uri(store)
    chosen, _ = choose(launcher, uri)
    objects = open_store(uri)
    objects.probe()
    recipe = as_kept(objects, recipe, chosen)
    if chosen == "local":
        check_places(objects, recipe)
    asked = Submission(
        run="-",
        pipeline=pipeline,
        address=address,
        overrides=list(overrides),
        recipe=recipe.digest(),
        submitted=now(),
    )
    name = choose_run(objects, asked, recipe, run)
    with exclusive(run_lock(objects, name), f"run {name!r}"):
        record = asked.model_copy(update={"run": name}).model_dump_json(indent=1)
        objects.write(f"{run_prefix(name)}/{RUN}", record.encode(), if_absent=True)
        objects.delete(f"{run_prefix(name)}/{CANCELLED}")
        if chosen == "kubeflow":
            from pipelines.submit import submit_run

            kfp_run = submit_run(objects, name, pipeline, recipe)
            if wait:
                from pelican.commands.wait import wait_in_kubeflow

                wait_in_kubeflow(objects, name, kfp_run, expected_stages(recipe, pipeline))
        else:
            run_here(objects, name, pipeline, recipe, chosen)


def as_kept(store: ObjectStore, recipe: Recipe, chosen: str) -> Recipe:
    """The recipe as a run of this launcher keeps it: for pods, with what it names in the store."""
    return recipe if chosen == "local" else publish(store, recipe)


def choose_run(store: ObjectStore, asked: Submission, recipe: Recipe, given: str | None) -> str:
    """The run's name, told in a line: `given`, the newest unfinished of this recipe, or a new one."""
    if given:
        check_run_name(given)
        before, stored = read_submission(store, given), read_recipe(store, given)
        if before is not None and before.pipeline != asked.pipeline:
            raise UserInputError(
                f"run {given!r} is of pipeline {before.pipeline!r}, not {asked.pipeline!r}; "
                "choose another run name"
            )
        if stored is not None:
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
    store: ObjectStore, run: str, pipeline: str, recipe: Recipe, launcher: str = "local"
) -> None:
    """Start the pipeline as a process of its own, follow it, and print what came out."""
    logs = store.local_root(f"{run_prefix(run)}/logs")
    recipe_file = logs / "submitted.json"
    recipe_file.write_text(recipe.model_dump_json(indent=1))
    command = [sys.executable, "-m", "pipelines.run", pipeline, "--store", store.uri]
    command += ["--run", run, "--recipe", str(recipe_file), "--scratch", str(logs / "kfp")]
    store.delete(f"{run_prefix(run)}/{FAILURE}")
    started = time.monotonic()
    with open_view(expected_stages(recipe, pipeline)) as view:
        code = _follow(command, logs / "pipeline.log", view, launcher)
    failure = read_json(store, f"{run_prefix(run)}/{FAILURE}")
    if failure is None and code != 0 and view.progress.failure is not None:
        failure = view.progress.failure
    print_result(store, run, time.monotonic() - started)
    if failure is not None:
        raise error_told(failure)
    if code != 0:
        raise error_of(code, f"the pipeline ended with status {code}; see {logs / 'pipeline.log'}")
    if state_after(store, run) != "complete":
        raise PelicanError(f"run {run} is not complete; see {logs / 'pipeline.log'}")


def _follow(command: list[str], log_file: Path, view: View, launcher: str) -> int:
    """Run `command`, show its events, keep the rest of its log. Ctrl-C and SIGTERM end it whole."""
    me = os.getpid()
    environment = {**os.environ, OWNER: identity(me), PARENT: str(me), "PYTHONUNBUFFERED": "1"}
    environment["PELICAN_LAUNCHER"] = "process" if launcher == "local" else launcher
    if launcher != "local":
        environment["PELICAN_WARM"] = "off"  # the stages run elsewhere
    # The components import pelican, wherever the command was typed.
    environment["PYTHONPATH"] = os.pathsep.join(
        [str(settings.home()), *filter(None, [os.environ.get("PYTHONPATH")])]
    )
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
