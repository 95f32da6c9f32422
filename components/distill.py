"""The teacher answers the weak set; with related samples and replay it is D_SFT."""

from typing import NamedTuple

from kfp import dsl

from pelican.config.env import image


@dsl.component(base_image=image(), install_kfp_package=False)
def distill(
    store: str,
    run: str,
    loop: int,
    phase: str,
    policy: str,
    weak: str,
) -> NamedTuple("Outputs", [("mixture", str), ("rows", int)]):
    """The teacher answers the weak set; with related samples and replay it is D_SFT."""
    from pelican.launch.step import step

    done = step("distill", store, run, loop, phase, policy=policy, weak=weak)
    return done.output, done.count("rows")
