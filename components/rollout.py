"""Completions of the policy for the pool: T for each sample."""

from typing import NamedTuple

from kfp import dsl

from pelican.config.env import image


@dsl.component(base_image=image(), install_kfp_package=False)
def rollout(
    store: str,
    run: str,
    loop: int,
    phase: str,
    policy: str,
) -> NamedTuple("Outputs", [("rollouts", str), ("completions", int)]):
    """Completions of the policy for the pool: T for each sample."""
    from pelican.launch.step import step

    done = step("rollout", store, run, loop, phase, policy=policy)
    return done.output, done.count("rollouts")
