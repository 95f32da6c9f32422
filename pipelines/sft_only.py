"""The SFT phases alone: the teacher's answers to what the policy never solves, without RL."""

from typing import Any

from pelican.recipe import Recipe
from pelican.recipes import for_pipeline
from pipelines import metaloop


def build(config: Recipe) -> Any:
    """The metaloop without its RL phases."""
    return metaloop.build(for_pipeline("sft_only", config), "sft_only")
