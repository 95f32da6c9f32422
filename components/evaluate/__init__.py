"""Held-out scores of a policy, and whether to go on."""

from typing import NamedTuple

from kfp import dsl

from pelican.settings import image


@dsl.component(base_image=image(), install_kfp_package=False)
def evaluate(
    store: str,
    run: str,
    loop: int,
    phase: str,
    policy: str,
    base: str = "",
    previous: str = "",
) -> NamedTuple(
    "Outputs", [("scores", str), ("embodied", float), ("general", float), ("Output", int)]
):
    """Held-out scores of a policy, and whether to go on: 1 or 0.

    That output has no name of its own because conditions of kfp.local find no other.
    """
    from pelican.launch import step

    done = step("eval", store, run, loop, phase, policy=policy, base=base, previous=previous)
    embodied, general = done.metric("embodied"), done.metric("general")
    return done.output, embodied, general, int(done.metric("go_on") >= 0.5)
