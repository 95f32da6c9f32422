"""Judge the retrained model against the current one, and register it with the decision."""

from typing import NamedTuple

from kfp import dsl

from pelican.config.env import image


@dsl.component(base_image=image(), install_kfp_package=False)
def gate(store: str, run: str) -> NamedTuple("Outputs", [("version", str), ("Output", int)]):
    """Judge the retrained model against the current one, and register it with the decision."""
    from pelican.retrain.steps import gate_step

    version, passed = gate_step(store, run)
    return version, int(passed)
