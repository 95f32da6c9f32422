"""The stages as tasks of a graph, shared by all pipelines: with names that people read, never cached.

Every task's name in the graph is unique in it. KFP's run page looks for a task's executions by this
name over the whole run: of two of one name it shows the last one's numbers at both, and it crashes
at a loop that is opened before its own has begun (seen with 2.17).
"""

from __future__ import annotations

import pkgutil
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from kfp import dsl
from kfp.dsl.python_component import PythonComponent

import components.choose
import components.preflight
import components.summary
from pelican.config.stages import STAGES
from pelican.records import Phase
from pipelines.compile import set_up

Task = Any  # kfp's PipelineTask
Prefix = Any  # a prefix of the store: a text, or the output of a task


def name_task(task: Task, name: str) -> Task:
    """`task` under a name for a person, its cache off."""
    return task.set_display_name(name).set_caching_options(False)


def prepare_task(task: Task, name: str) -> Task:
    """`task` under that name, with what the pipeline that is being built gives to its pods."""
    return name_task(set_up(task), name)


def add_preflight(store: Prefix, run: Prefix, recipe: Prefix, redo: Any) -> Prefix:
    """A task that checks recipe, data and checkpoints; gives the base policy to start from.

    `redo`: a finished training may be made again if what it was made from has changed.
    """
    task = components.preflight.preflight(store=store, run=run, recipe=recipe, redo=redo)
    return prepare_task(task, "preflight").output


def closing_summary(store: Prefix, run: Prefix, pipeline: str) -> AbstractContextManager[Any]:
    """Tasks inside are followed by the summary and the report, also after a failure."""
    task = components.summary.summary(store=store, run=run, pipeline=pipeline)
    handler: AbstractContextManager[Any] = dsl.ExitHandler(
        prepare_task(task, "summary"), name=pipeline
    )
    return handler


def look_at_sealed(store: Prefix, run: Prefix, base: Prefix, after: Task) -> None:
    """The sealed set, read once the loops have ended: by the base, and by the policy that is offered."""
    chosen = components.choose.choose(store=store, run=run, base=base)
    chosen = prepare_task(chosen.after(after), "choice of the policy")
    start = Stages(store, run, 0, Phase.START).evaluate(base, after=after)
    Stages(store, run, 0, Phase.END).evaluate(chosen.output, base=start.prefix)


@contextmanager
def only_if(condition: Any, question: str) -> Iterator[None]:
    """What is inside runs if the condition holds that answers `question`."""
    with dsl.If(condition, name=question) as group:
        # kfp numbers the conditions of each nested pipeline from 1. The backend knows a condition by
        # the word that its task's name begins with.
        group.name = "condition-" + re.sub("[^a-z0-9]+", "-", question.lower()).strip("-")
        yield


class Scores(NamedTuple):
    """What an evaluation hands on: its prefix, and the condition that the metaloop goes on."""

    task: Task
    prefix: Prefix
    go_on: Any


@dataclass(frozen=True)
class Stages:
    """The stages of one phase of one loop of one run."""

    store: Prefix
    run: Prefix
    loop: int
    phase: Phase

    def add(self, stage: str, *, after: Scores | None = None, **inputs: Prefix) -> Prefix:
        """Add the task of `stage`, a row of STAGES, with its inputs, and return its output.

        With `after` it starts only once that evaluation has ended.
        """
        task = self._task(stage, inputs)
        if after is not None:
            task.after(after.task)
        return task.outputs[STAGES[stage].output]

    def evaluate(
        self, policy: Prefix, base: Prefix = "", previous: Prefix = "", after: Task = None
    ) -> Scores:
        """The evaluation of a policy, compared with earlier ones; it starts once `after` has ended."""
        task = self._task("eval", {"policy": policy, "base": base, "previous": previous})
        if after is not None:
            task.after(after)
        return Scores(task, task.outputs[STAGES["eval"].output], task.outputs["Output"] == 1)

    def _task(self, stage: str, inputs: dict[str, Prefix]) -> Task:
        component = pkgutil.resolve_name(STAGES[stage].component)
        words = self.phase.words
        where = f"loop {self.loop}, {words}" if self.loop else words
        name = f"{stage}, {where}"
        # kfp makes the task's name of the component's: `rollout-loop-1-rl`.
        own = PythonComponent(replace(component.component_spec, name=name), component.python_func)
        task = own(store=self.store, run=self.run, loop=self.loop, phase=self.phase.value, **inputs)
        return prepare_task(task, name)
