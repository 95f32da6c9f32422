"""Diagnose the model on the new data; compose what to practise, if there is a weakness."""

from typing import NamedTuple

from kfp import dsl

from pelican.config.env import image


@dsl.component(base_image=image(), install_kfp_package=False)
def practice(store: str, run: str, ledger: str) -> NamedTuple("Outputs", [("Output", int)]):
    """Diagnose the model on the new data; compose what to practise, if there is a weakness."""
    from pelican.retrain.steps import practice_step

    return (int(practice_step(store, run)),)
