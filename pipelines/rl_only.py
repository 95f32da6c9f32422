"""The RL phases alone: what reinforcement learning gains, and forgets, without a teacher."""

from typing import Any

from pelican.recipe import Recipe
from pelican.recipes import for_pipeline
from pipelines import metaloop


def build(config: Recipe) -> Any:
    """The metaloop without its SFT phases."""
    return metaloop.build(for_pipeline("rl_only", config), "rl_only")
