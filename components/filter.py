"""From success rates choose the practice buffer and the weak set.

The buffer's samples succeed sometimes, the weak ones never.
"""

from typing import NamedTuple

from kfp import dsl

from pelican.config.env import image


@dsl.component(base_image=image(), install_kfp_package=False)
def difficulty_filter(
    store: str,
    run: str,
    loop: int,
    phase: str,
    scores: str,
    policy: str,
) -> NamedTuple("Outputs", [("practice", str), ("buffer", int), ("weak", int)]):
    """Success rates to practice and weak set: what is neither mastered nor hopeless."""
    from pelican.launch.step import step

    done = step("filter", store, run, loop, phase, scores=scores, policy=policy)
    return done.output, done.count("buffer"), done.count("weak")
