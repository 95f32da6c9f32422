"""GRPO on the practice buffer until it stagnates."""

from typing import NamedTuple

from kfp import dsl

from pelican.config.env import image


@dsl.component(base_image=image(), install_kfp_package=False)
def train_rl(
    store: str,
    run: str,
    loop: int,
    phase: str,
    policy: str,
    buffer: str,
) -> NamedTuple("Outputs", [("policy", str), ("steps", int)]):
    """GRPO on the practice buffer until it stagnates."""
    from pelican.launch.step import step

    done = step("train-rl", store, run, loop, phase, policy=policy, buffer=buffer)
    return done.checkpoint, done.count("steps")
