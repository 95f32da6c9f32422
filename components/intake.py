"""Check the new data, split it, find the model to go on from."""

from kfp import dsl

from pelican.config.env import image


@dsl.component(base_image=image(), install_kfp_package=False)
def intake(store: str, run: str, checked: str) -> str:
    """Check the new data, split it, find the model to go on from."""
    from pelican.retrain.steps import intake_step

    return intake_step(store, run)
