"""Supervised fine-tuning on the mixture."""

from typing import NamedTuple

from kfp import dsl

from pelican.config.env import image


@dsl.component(base_image=image(), install_kfp_package=False)
def train_sft(
    store: str,
    run: str,
    loop: int,
    phase: str,
    policy: str,
    mixture: str,
) -> NamedTuple("Outputs", [("policy", str), ("steps", int)]):
    """Supervised fine-tuning on the mixture."""
    from pelican.launch.step import step

    done = step("train-sft", store, run, loop, phase, policy=policy, mixture=mixture)
    return done.checkpoint, done.count("steps")
