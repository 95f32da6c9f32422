"""Recipe, checkpoints, pools, packages and disk space, before a GPU is asked for."""

from kfp import dsl

from pelican.config.env import image


@dsl.component(base_image=image(), install_kfp_package=False)
def preflight(store: str, run: str, recipe: str, redo: bool = False) -> str:
    """Check what can be checked cheaply, and store the recipe. Returns the base policy."""
    from pelican.runs.preflight import run_preflight

    return run_preflight(store, run, recipe, redo)
