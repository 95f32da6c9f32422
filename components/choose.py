"""Which policy a run offers: the newest that its gate let pass."""

from kfp import dsl

from pelican.config.env import image


@dsl.component(base_image=image(), install_kfp_package=False)
def choose(store: str, run: str, base: str) -> str:
    """The policy that the loops ended with, or `base` if no loop passed its gate."""
    from pelican.runs.choice import choose_policy

    return choose_policy(store, run, base)
