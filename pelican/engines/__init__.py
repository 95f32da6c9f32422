"""Engines that generate completions: transformers, vLLM, an endpoint, a replay of recorded rollouts."""

from pelican.engines.base import Engine
from pelican.engines.opening import open_engine

__all__ = ["Engine", "open_engine"]
