"""One run per variant and seed, one after the other: ordinary runs of the store, by name."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence

from pelican import settings
from pelican.errors import PelicanError
from pelican.experiments.variants import Variant
from pelican.launch.base import CancelledError
from pelican.preflight import check_same_recipe
from pelican.recipes import find_recipe
from pelican.runs import read_recipe, state
from pelican.storage.objects import ObjectStore, open_store

TAG = "results"
_STOPPED = CancelledError.exit_code


def run_name(variant: str, seed: int, tag: str) -> str:
    """Such as `results-dppo-s0`."""
    return f"{tag}-{variant.replace('_', '-')}-s{seed}"


def make_command(variant: Variant, name: str, seed: int, more: str) -> str:
    """What a person types for one run."""
    overrides = shlex.quote(variant.settings(seed, more))
    return f"make submit RECIPE={shlex.quote(variant.recipe)} SET={overrides} RUN={name}"


def run_all(
    variants: Mapping[str, Variant],
    seeds: Sequence[int],
    tag: str,
    more: str,
    *,
    store: str | None = None,
    launcher: str = "auto",
) -> list[str]:
    """Submit what is not complete; a failed run is told and passed over. Gives those that failed.

    Raises CancelledError if a run was stopped.
    """
    objects, failed = open_store(settings.store_uri(store)), []
    for seed in seeds:
        for label, variant in variants.items():
            name = run_name(label, seed, tag)
            try:
                if _complete(objects, name, variant, variant.settings(seed, more)):
                    print(f"# {name} is complete", flush=True)
                    continue
            except PelicanError as error:
                print(f"# {name}: {error}", flush=True)
                failed.append(name)
                continue
            command = [sys.executable, "-m", "pelican", "submit", "--pipeline", "metaloop"]
            command += ["--recipe", variant.recipe, "--set", variant.settings(seed, more)]
            command += ["--run", name, "--launcher", launcher, "--wait"]
            command += ["--store", objects.uri]
            print("#", make_command(variant, name, seed, more), flush=True)
            code = _followed(command)
            if code == _STOPPED:
                raise CancelledError("the set was stopped; the same command continues it")
            if code:
                print(f"# {name} failed", flush=True)
                failed.append(name)
    return failed


def _complete(store: ObjectStore, name: str, variant: Variant, overrides: str) -> bool:
    """Raises UserInputError if there is a run of that name with another recipe."""
    recipe, stored = find_recipe(variant.recipe, [overrides]), read_recipe(store, name)
    if stored is None:
        return False
    check_same_recipe(name, stored, recipe)
    return state(store, name) == "complete"


def _followed(command: Sequence[str]) -> int:
    """The command's status. Ctrl-C reaches it too, SIGTERM is passed on: it ends its stages."""
    environment = {**os.environ, settings.REUSE: "on"}
    with subprocess.Popen(command, env=environment) as process:
        before = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
        try:
            while True:
                try:
                    return process.wait()
                except KeyboardInterrupt:
                    continue
        finally:
            signal.signal(signal.SIGTERM, before)
