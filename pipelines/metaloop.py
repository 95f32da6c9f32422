"""Deliberate Practice Policy Optimization: K metaloops, each an RL phase, then an SFT phase.

    policy_k --rollout--reward--filter--> practice buffer --train-rl--> policy_k+1/2
    policy_k+1/2 --rollout--reward--filter--> weak set --distill--> D_SFT --train-sft--> policy_k+1
    policy_k+1 --eval--> go on?

RL refines what the policy can nearly do and so reveals what it can't; the teacher's answers to that
expand it. Pipelines have no recursion at run time, so the graph recurses when it is built: loop k
holds loop k + 1, which runs if the evaluation of loop k says "go on".
"""

# The docstring is the description in Kubeflow. What each stage is: `pelican/config/stages.py`.

from typing import Any

from kfp import dsl

from pelican.config.presets import for_pipeline
from pelican.config.recipe import Recipe
from pelican.records import Phase
from pipelines.parts import (
    Prefix,
    Scores,
    Stages,
    add_preflight,
    closing_summary,
    look_at_sealed,
    name_task,
    only_if,
)

METALOOP = __doc__
EVALUATE = "Held-out scores of one policy: the recipe's `models.policy`."


def build_metaloop(config: Recipe, name: str = "metaloop") -> Any:
    """The graph for a recipe: as many loops as it has, and the phases that it enables."""
    first_loop = build_loop(1, config)

    @dsl.pipeline(name=name.replace("_", "-"), description=METALOOP)
    def metaloop(store: str, run: str, recipe: str, redo: bool = False) -> None:
        with closing_summary(store, run, name):
            policy = add_preflight(store, run, recipe, redo)
            scores = Stages(store, run, 0, Phase.BASE).evaluate(policy).prefix
            loop = first_loop(store=store, run=run, policy=policy, base=scores, previous=scores)
            name_task(loop, f"loop 1 of {config.loops}")
            if config.data.dev is not None:
                look_at_sealed(store, run, policy, after=loop)

    return metaloop


def build_loop(k: int, config: Recipe) -> Any:
    """Loop k of K as a pipeline: policy_k -> policy_k+1 -> loop k + 1."""
    next_loop = build_loop(k + 1, config) if k < config.loops else None

    @dsl.pipeline(name=f"loop-{k}-of-{config.loops}")
    def loop(store: str, run: str, policy: str, base: str, previous: str) -> None:
        scores = None
        if config.rl.enabled:
            stages = Stages(store, run, k, Phase.RL)
            policy = reveal_and_refine(stages, policy)
            # If SFT follows, this is measured and not obeyed: SFT may restore what RL lost.
            scores = stages.evaluate(policy, base, previous)
        if config.sft.enabled:
            stages = Stages(store, run, k, Phase.SFT)
            policy = expand(stages, policy, config.mines, after=scores)
            scores = stages.evaluate(policy, base, previous)
        if next_loop is not None and scores is not None:
            with only_if(scores.go_on, f"go on to loop {k + 1}?"):
                deeper = next_loop(
                    store=store, run=run, policy=policy, base=base, previous=scores.prefix
                )
                name_task(deeper, f"loop {k + 1} of {config.loops}")

    return loop


def reveal_and_refine(stages: Stages, policy: Prefix) -> Prefix:
    """The RL phase: practise what succeeds sometimes, until practice no longer helps."""
    rollouts = stages.add("rollout", policy=policy)
    scores = stages.add("reward", rollouts=rollouts)
    buffer = stages.add("filter", scores=scores, policy=policy)
    return stages.add("train-rl", policy=policy, buffer=buffer)


def expand(stages: Stages, policy: Prefix, mines: bool, after: Scores | None = None) -> Prefix:
    """The SFT phase: learn from a teacher what never succeeds, or, if nobody `mines`, what chance gives."""
    if mines:
        rollouts = stages.add("rollout", policy=policy, after=after)
        scores = stages.add("reward", rollouts=rollouts)
        weak = stages.add("filter", scores=scores, policy=policy)
        mixture = stages.add("distill", policy=policy, weak=weak)
    else:
        mixture = stages.add("distill", policy=policy, weak="", after=after)
    return stages.add("train-sft", policy=policy, mixture=mixture)


def build_rl_only(config: Recipe) -> Any:
    """The RL phases alone: what RL gains, and forgets, without a teacher."""
    return build_metaloop(for_pipeline("rl_only", config), "rl_only")


def build_sft_only(config: Recipe) -> Any:
    """The SFT phases alone: the teacher's answers to what the policy never solves."""
    return build_metaloop(for_pipeline("sft_only", config), "sft_only")


def build_evaluate(config: Recipe) -> Any:
    """Preflight, one evaluation, summary."""

    @dsl.pipeline(name="evaluate", description=EVALUATE)
    def evaluate(store: str, run: str, recipe: str, redo: bool = False) -> None:
        with closing_summary(store, run, "evaluate"):
            policy = add_preflight(store, run, recipe, redo)
            Stages(store, run, 0, Phase.BASE).evaluate(policy)

    return evaluate
