"""Make the model that passed the gate the current one."""

from kfp import dsl

from pelican.config.env import image


@dsl.component(base_image=image(), install_kfp_package=False)
def promote(store: str, run: str, version: str) -> str:
    """Make the model that passed the gate the current one."""
    from pelican.retrain.steps import promote_step

    return promote_step(store, run, version)
