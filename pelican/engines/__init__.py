"""Who generates completions: transformers, vLLM, or a replay of recorded rollouts."""

from pelican.engines.base import Engine, open_engine

__all__ = ["Engine", "open_engine"]
