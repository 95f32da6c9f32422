"""The metaloop's tasks in one process: what KFP does with a process each, in milliseconds where a stage is reused."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from pelican.config.recipe import Recipe
from pelican.errors import PelicanError
from pelican.launch.step import step
from pelican.report.kubeflow import conclude
from pelican.runs.layout import RUN, Submission, run_prefix
from pelican.runs.preflight import run_preflight
from pelican.storage.manifests import now
from pelican.storage.store import ObjectStore


def drive(store: ObjectStore, run: str, recipe: Recipe, redo: bool = False) -> None:
    """The tasks in the order of the graph, each called as its component calls it.

    Raises:
        SystemExit: a step failed; it has said why.
    """

    def take(stage: str, loop: int, phase: str, **inputs: str) -> Any:
        return step(stage, store.uri, run, loop, phase, **inputs)

    asked = Submission(
        run=run,
        pipeline="metaloop",
        address="-",
        overrides=[],
        recipe=recipe.digest(),
        submitted=now(),
    )
    record = asked.model_dump_json(indent=1).encode()  # as the command writes it, where none is
    with suppress(PelicanError):  # a store that takes nothing: the preflight says so
        store.write(f"{run_prefix(run)}/{RUN}", record, if_absent=True)
    policy = run_preflight(store.uri, run, recipe.model_dump_json(), redo)
    base = previous = take("eval", 0, "base", policy=policy).output
    for k in range(1, recipe.loops + 1):
        for phase in ("rl", "sft"):
            rollouts = take("rollout", k, phase, policy=policy).output
            scores = take("reward", k, phase, rollouts=rollouts).output
            found = take("filter", k, phase, scores=scores, policy=policy).output
            if phase == "rl":
                trained = take("train-rl", k, phase, policy=policy, buffer=found)
            else:
                mixture = take("distill", k, phase, policy=policy, weak=found).output
                trained = take("train-sft", k, phase, policy=policy, mixture=mixture)
            policy = trained.checkpoint
            last = take("eval", k, phase, policy=policy, base=base, previous=previous).output
        previous = last
    conclude(store, run, "metaloop", succeeded=True)
