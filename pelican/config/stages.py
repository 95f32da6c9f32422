"""The table of stages: all that the rest of Pelican knows of a stage apart from its own module.

Who starts, schedules, counts, draws or checks stages asks this table. So a new stage is a row here, its
module, its component, a task in a pipeline, and a field of `resources` if it shall run on a cluster.

Imports nothing of Pelican: settings, monitoring and launchers all read it. Fields of the recipe are
dotted names (`rl.processes`, of `pelican/config/recipe.py`), code is named by its module.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import reduce
from typing import Any, Literal

# Where a stage stands in a pipeline: the evaluation of the base policy, a retraining's diagnosis of the
# model that it starts from, one of a loop's two phases, or the look at the sealed set at the end.
Part = Literal["base", "diagnosis", "rl", "sft", "sealed"]


class Uses(StrEnum):
    """What a stage works with: it decides the image, the GPUs, and what a warm process imports."""

    CPU = "cpu"  # no torch
    TRAINING = "training"
    GENERATION = "generation"  # the engine of `rollout.engine`


@dataclass(frozen=True)
class Stage:
    """One row. What is empty does not apply to the stage."""

    name: str
    module: str  # with `run`, or, of replicas, with `work` and `finish`
    component: str  # module:name
    output: str  # the component's output that later stages get
    parts: tuple[Part, ...]
    uses: Uses
    inputs: tuple[str, ...]  # what other stages made, or the base policy
    optional: tuple[str, ...] = ()  # more of them, which may be missing
    # Inputs from the recipe: the pool or model that a field names.
    data: Mapping[str, str] = field(default_factory=dict)
    # Of those, the ones that nobody needs where this field of the recipe is set.
    unless: Mapping[str, str] = field(default_factory=dict)
    # And those that are needed only where this field or property of the recipe is set.
    where: Mapping[str, str] = field(default_factory=dict)
    # Of `data`, the field that stands for another where it is set: gates read dev, not what is sealed.
    dev: Mapping[str, str] = field(default_factory=dict)
    # The stage of whose outputs it also reads those that the run made earlier, and the field or property of
    # the recipe that says whether.
    earlier: str = ""
    earlier_if: str = ""
    # What of the recipe determines the result, sections or fields, and where a section is listed whole,
    # more. A finished stage is known again by them, so a change here does every stage again.
    result: tuple[str, ...] = ()
    # More of that where a field of the recipe, which `reads` has, is set.
    result_if: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    # What the stage reads apart from that, because it can't change the result. A stage sees nothing else
    # of the recipe.
    reads: tuple[str, ...] = ()
    processes: str = ""  # the field that says how many; none: one, whatever the pods
    threads: str = ""  # the field that says how many a process has; none: one
    # Any number of processes, of any speed, without a process group; one may be lost.
    replicas: bool = False
    elastic: bool = False  # goes on with fewer pods: its checkpoints fit any number of processes
    rows: str = ""  # the field that its processes share out evenly at each step
    memory: str = ""  # the field to lower if memory ran out
    generated: str = ""  # the count of its manifest that is its generated tokens
    trained: str = ""  # the count that is the tokens it trained on
    # Counts of tokens that its model computed forward besides: prompts, once each, and of RL the passes of the
    # reference and of the perception loss.
    read: tuple[str, ...] = ()
    prompts_trained: str = ""  # the count of prompts' tokens that went backward, too
    computes: str = "policy"  # the input whose model does all that
    endings: tuple[str, ...] = ()  # how its completions can end; a teacher's replies don't say
    long: bool = True  # long enough for its metrics to be scraped; others only push

    @property
    def field(self) -> str:
        """Its name where a dash may not be, such as `resources.train_rl`."""
        return self.name.replace("-", "_")

    def is_of(self, part: Part, recipe: Any) -> bool:
        """Whether the part of a run has this stage: without mining nothing measures what is weak."""
        measures = "diagnosis" in self.parts  # of which a diagnosis is made
        return part in self.parts and (recipe.mines or part != "sft" or not measures)

    def results(self, recipe: Any) -> tuple[str, ...]:
        """What of this recipe determines the result: `result`, and what `result_if` adds."""
        more = [names for name, names in self.result_if.items() if value_of(recipe, name)]
        return (*self.result, *(name for names in more for name in names))

    def needs(self, recipe: Any, *, sealed: bool = False) -> dict[str, str]:
        """The inputs that the recipe names, each with its field: `data` without what is not needed.

        Args:
            recipe: names them.
            sealed: the stage looks at the sealed set, so that no `dev` stands for it.
        """
        needed = {
            name: place
            for name, place in self.data.items()
            if not (name in self.unless and value_of(recipe, self.unless[name]))
            and (name not in self.where or value_of(recipe, self.where[name]))
        }
        if sealed:
            return needed
        instead = {name: dev for name, dev in self.dev.items() if value_of(recipe, dev)}
        return needed | instead


_POOL = {"pool": "data.train"}
_ROWS = (
    Stage(
        name="rollout",
        module="pelican.stages.rollout",
        component="components.rollout:rollout",
        output="rollouts",
        parts=("diagnosis", "rl", "sft"),
        uses=Uses.GENERATION,
        inputs=("policy",),
        data=_POOL,
        earlier="filter",
        earlier_if="data.by_weakness",
        result=("seed", "model", "rollout", "data"),
        # Who rolls out again what has not succeeded scores it.
        result_if={"filter.zeros_again": ("filter.zeros_again", "reward")},
        reads=("filter.zeros_again",),
        processes="rollout.workers",
        replicas=True,
        memory="rollout.batch_size",
        generated="tokens",
        read=("prompt_tokens",),
        endings=("stop", "length"),
    ),
    # Reward and filter are one process, with as many threads as rollouts have workers: both are the
    # cores that a run may take.
    Stage(
        name="reward",
        module="pelican.stages.reward",
        component="components.reward:reward",
        output="scores",
        parts=("diagnosis", "rl", "sft"),
        uses=Uses.CPU,
        inputs=("rollouts",),
        data=_POOL,
        result=("seed", "reward"),
        threads="rollout.workers",
        memory="rollout.shard_size",
        long=False,
    ),
    Stage(
        name="filter",
        module="pelican.stages.filter",
        component="components.filter:difficulty_filter",
        output="practice",
        parts=("diagnosis", "rl", "sft"),
        uses=Uses.CPU,
        inputs=("scores", "policy"),
        data=_POOL,
        result=("seed", "filter"),
        threads="rollout.workers",
        memory="data.samples_per_loop",
        long=False,
    ),
    Stage(
        name="distill",
        module="pelican.stages.distill",
        component="components.distill:distill",
        output="mixture",
        parts=("sft",),
        uses=Uses.GENERATION,
        inputs=("policy", "weak"),  # without mining nothing is weak
        data={**_POOL, "replay": "data.replay", "teacher": "models.teacher"},
        unless={"teacher": "distill.endpoint"},
        earlier="distill",
        earlier_if="distill.keep_rows",
        # Its rows name the teacher.
        result=("seed", "model", "models.teacher", "distill", "reward", "rollout", "data"),
        # Scenes are kept for the loops to come. A run that gets more loops keeps what is taught.
        reads=("loops",),
        processes="rollout.workers",
        memory="rollout.batch_size",
        generated="teacher_tokens",
        read=("teacher_prompt_tokens",),
        computes="teacher",
        endings=("unknown",),
    ),
    Stage(
        name="train-rl",
        module="pelican.stages.train_rl",
        component="components.train_rl:train_rl",
        output="policy",
        parts=("rl",),
        uses=Uses.TRAINING,
        inputs=("policy", "buffer"),
        data={**_POOL, "probe": "data.dev"},
        where={"probe": "rl.stop.probes"},
        result=("seed", "model", "rl", "reward", "data.max_pixels", "parallel"),
        # The engine that draws the completions: each draws from the same policy.
        reads=("rollout",),
        processes="rl.processes",
        threads="rl.threads",
        elastic=True,
        rows="rl.prompts_per_step",
        memory="rl.prompts_per_step",
        generated="tokens_generated",
        trained="tokens_trained",
        read=("prompt_tokens", "reference_tokens"),
        prompts_trained="prompt_tokens_trained",
    ),
    Stage(
        name="train-sft",
        module="pelican.stages.train_sft",
        component="components.train_sft:train_sft",
        output="policy",
        parts=("sft",),
        uses=Uses.TRAINING,
        inputs=("policy", "mixture"),
        data={**_POOL, "replay": "data.replay"},
        result=("seed", "model", "sft", "data.max_pixels", "parallel"),
        processes="sft.processes",
        threads="sft.threads",
        elastic=True,
        rows="sft.batch_size",
        memory="sft.batch_size",
        trained="tokens_trained",
        prompts_trained="prompt_tokens_trained",
    ),
    # Its component is called evaluate. What it generates is a cost of measuring, so it counts for no
    # run's tokens.
    Stage(
        name="eval",
        module="pelican.stages.eval",
        component="components.evaluate:evaluate",
        output="scores",
        parts=("base", "rl", "sft", "sealed"),
        uses=Uses.GENERATION,
        inputs=("policy",),
        optional=("base", "previous"),
        data={"evaluation": "data.evaluation", "general": "data.general"},
        dev={"evaluation": "data.dev", "general": "data.dev_general"},
        result=("seed", "model", "eval", "rollout", "reward", "data"),
        # Whether the loop goes on after this phase: a metric says which gates are obeyed.
        reads=("sft.enabled",),
        processes="rollout.workers",
        memory="rollout.batch_size",
        endings=("stop", "length"),
    ),
)
# By name, in the order of a phase.
STAGES: dict[str, Stage] = {row.name: row for row in _ROWS}


def is_training(stage: str) -> bool:
    """Whether a stage trains the policy; False for what is no stage."""
    return stage in STAGES and STAGES[stage].uses is Uses.TRAINING


def value_of(recipe: Any, name: str) -> Any:
    """A section or field of a recipe by its dotted name, such as `rl.processes`."""
    return reduce(getattr, name.split("."), recipe)
